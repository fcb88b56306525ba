// The program: where the values come from, the frame around every page, the keys, and the theme.

import { render } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Index } from "./model";
import { CompareView } from "./pages/compare";
import { OverviewPage } from "./pages/overview";
import { ProblemPageView } from "./pages/problem";
import { ProblemsPage } from "./pages/problems";
import { ReplayView } from "./pages/replay";
import { SweepView } from "./pages/sweep";
import { Figure, Waiting } from "./parts/common";
import { go, link, useRoute, type Route } from "./route";
import { Embedded } from "./source/embedded";
import { Http } from "./source/http";
import type { Source } from "./source/source";
import { count, percent } from "./text/format";
import "./style.css";

function App({ source }: { source: Source }) {
  const asked = useRoute();
  const [index, setIndex] = useState<Index>();
  const route = useMemo(() => (index && !asked.path[0] ? { ...asked, path: home(index) } : asked), [index, asked]);
  const [error, setError] = useState("");
  const [readAt, setReadAt] = useState("");
  const [isHelp, setHelp] = useState(false);
  useEffect(() => {
    const read = () =>
      source.index().then(
        (found) => (setIndex(found), setError(""), setReadAt(new Date().toLocaleTimeString())),
        (fault: unknown) => setError(fault instanceof Error ? fault.message : String(fault)),
      );
    read();
    return source.events(read);
  }, [source]);
  useEffect(() => {
    const press = (event: KeyboardEvent) => shortcut(event, route, setHelp);
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, [route]);
  if (!index) return <main><Waiting error={error} /></main>;
  return (
    <>
      <a class="skip" href="#main" onClick={(e) => { e.preventDefault(); document.querySelector("main")?.focus(); }}>to the content</a>
      <Frame index={index} route={route} help={() => setHelp(true)} />
      {(error || index.state) && <State index={index} fault={error && `${error}; these pages are as of ${readAt}`} />}
      <main id="main" tabindex={-1} data-ready="">
        <Content source={source} index={index} route={route} />
      </main>
      <footer class="dim">
        {index.n_left_out > 0 &&
          `To stay small, this file has at most ${count(index.cut)} characters of a text; ${count(index.n_left_out)} are left out. leadline show DIR ID --thinking prints a problem in full, leadline report --megabytes N keeps more. `}
        {index.state === undefined ? "Made by leadline report. Nothing is requested from anywhere." : "Served by leadline view, which reads the job and changes nothing."}
      </footer>
      {isHelp && <Help close={() => setHelp(false)} />}
    </>
  );
}

/** How current served pages are. */
function State({ index, fault }: { index: Index; fault: string }) {
  const warning = fault || index.state?.warning;
  if (warning) return <p class="warn live" role="status">{warning}</p>;
  const n = index.jobs.reduce((sum, { overview }) => sum + (overview.n_by_outcome.open ?? 0), 0);
  const problems = n === 1 ? "1 problem is open" : `${count(n)} problems are open`;
  const text = index.state?.is_running
    ? `live: the job runs; ${problems}`
    : n === 0
      ? "the job has ended: these are its last numbers"
      : index.state?.is_running === null
        ? problems
        : `not running on this machine; ${problems}, and leadline resume continues`;
  return <p class="dim live" role="status">{text}</p>;
}

function Content({ source, index, route }: { source: Source; index: Index; route: Route }) {
  const [first = "", second, third] = route.path;
  const place = Number(second ?? 0);
  if (first === "sweep" && index.sweeps[place]) return <SweepView index={index} place={place} route={route} />;
  if (first === "compare" && index.comparisons[place]) return <CompareView index={index} place={place} route={route} />;
  if (first === "replay" && index.replays[place]) return <ReplayView page={index.replays[place]} route={route} />;
  const job = Number(first);
  const entry = index.jobs[job];
  if (first !== "" && entry) {
    if (second === "problems") return <ProblemsPage key={job} source={source} job={job} entry={entry} route={route} />;
    if (second === "problem" && third !== undefined) return <ProblemPageView source={source} job={job} entry={entry} id={third} route={route} />;
    return <OverviewPage job={job} entry={entry} />;
  }
  return <Contents index={index} />;
}

/** The first page: that of the only job, sweep or replay that is here, or else the list of all. */
function home(index: Index): string[] {
  const n = index.sweeps.length + index.replays.length + index.jobs.filter((one) => one.sweep === null).length;
  if (n !== 1) return [];
  return index.sweeps.length ? ["sweep", "0"] : index.replays.length ? ["replay", "0"] : ["0"];
}

/** The list of what is here, where there is more than one job. */
function Contents({ index }: { index: Index }) {
  return (
    <>
      <header class="title"><h1>{index.title}</h1></header>
      {index.notes.map((note) => <p key={note} class="warn">{note}</p>)}
      <div class="figures">
        {index.comparisons.map((page, i) => (
          <Figure
            key={`c${i}`}
            name="comparison"
            value={`${index.jobs[page.first]!.overview.name} and ${index.jobs[page.second]!.overview.name}`}
            note={`${page.comparison.difference.n} problems, accuracy ${percent(page.comparison.difference.first.value)} and ${percent(page.comparison.difference.second.value)}`}
            href={link(["compare", i])}
          />
        ))}
        {index.sweeps.map((page, i) => (
          <Figure key={`s${i}`} name="sweep" value={page.name} note={`${page.surface.levels.length} efforts, ${page.surface.n_problems} problems`} href={link(["sweep", i])} />
        ))}
        {index.replays.map((page, i) => (
          <Figure key={`r${i}`} name="replay" value={page.name} note={`${page.points.length} settings`} href={link(["replay", i])} />
        ))}
        {index.jobs.map(({ overview, sweep }, i) => (
          <div key={i} class="figure">
            <span class="name">{sweep === null ? "job" : `job of ${index.sweeps[sweep]?.name}`}</span>
            <a class="value" href={link([i])}>{overview.name}</a>
            <span class="note">
              <a href={link([i, "problems"])}>{count(overview.n_problems)} problems</a>,{" "}
              {overview.report.accuracy ? `accuracy ${percent(overview.report.accuracy.value)}` : "no references"}
            </span>
          </div>
        ))}
      </div>
    </>
  );
}

function Frame({ index, route, help }: { index: Index; route: Route; help: () => void }) {
  const [first = "", second] = route.path;
  const job = /^\d+$/.test(first) ? Number(first) : index.jobs.length === 1 ? 0 : null;
  const current = (isIt: boolean) => (isIt ? "page" : undefined);
  return (
    <header class="frame">
      <a class="brand" href="#/">leadline</a>
      <nav aria-label="Pages">
        {index.jobs.length > 1 && (
          <select aria-label="Job" value={job ?? ""} onChange={(e) => e.currentTarget.value !== "" && go(link([e.currentTarget.value]))}>
            <option value="">all</option>
            {index.jobs.map((entry, i) => <option key={i} value={i}>{entry.overview.name}</option>)}
          </select>
        )}
        {job !== null && (
          <>
            <a href={link([job])} aria-current={current(!second)}>Overview</a>
            <a href={link([job, "problems"])} aria-current={current(second === "problems" || second === "problem")}>Problems</a>
          </>
        )}
        {index.comparisons.map((page, i) => (
          <a key={i} href={link(["compare", i])} aria-current={current(first === "compare" && Number(second) === i)}>
            {index.comparisons.length > 1 ? `vs ${index.jobs[page.second]!.overview.name}` : "Comparison"}
          </a>
        ))}
        {index.sweeps.map((page, i) => (
          <a key={i} href={link(["sweep", i])} aria-current={current(first === "sweep" && Number(second) === i)}>{index.sweeps.length > 1 ? page.name : "Sweep"}</a>
        ))}
        {index.replays.map((page, i) => (
          <a key={i} href={link(["replay", i])} aria-current={current(first === "replay" && Number(second) === i)}>{index.replays.length > 1 ? page.name : "Replay"}</a>
        ))}
      </nav>
      <ThemeButton />
      <button onClick={help} aria-label="Keys and questions" title="keys and questions (?)">?</button>
    </header>
  );
}

// --- keys

function shortcut(event: KeyboardEvent, route: Route, setHelp: (on: boolean) => void): void {
  const target = event.target as HTMLElement;
  const isTyping = ["INPUT", "SELECT", "TEXTAREA"].includes(target.tagName);
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    if (document.querySelector("dialog[open]")) setHelp(false);
    else if (isTyping) target.blur();
    else back(route);
  } else if (isTyping) return;
  else if (event.key === "/") {
    event.preventDefault();
    const box = document.querySelector<HTMLInputElement>("main input[type=search]");
    if (box) box.focus();
    else if (/^\d+$/.test(route.path[0] ?? "0")) go(link([route.path[0] ?? 0, "problems"]));
  } else if (event.key === "?") setHelp(!document.querySelector("dialog[open]"));
  else if (event.key === "[" || event.key === "]") {
    document.querySelector<HTMLAnchorElement>(`a[rel=${event.key === "[" ? "prev" : "next"}]`)?.click();
  } else if (event.key === "ArrowDown" || event.key === "ArrowUp") arrow(event);
}

/** Moves through lanes and rows that have the focus, or to the first of them. */
function arrow(event: KeyboardEvent): void {
  const here = document.activeElement;
  const table = document.querySelector<HTMLElement>("main .scroll");
  if (table && (here === document.body || here === table.closest("main"))) {
    event.preventDefault();
    table.focus();
    return;
  }
  const all = [...document.querySelectorAll<SVGGElement>("g.lane")];
  const at = all.indexOf(here as SVGGElement);
  if (!all.length || (at < 0 && here !== document.body && here?.tagName !== "MAIN")) return;
  event.preventDefault();
  const next = at < 0 ? 0 : at + (event.key === "ArrowDown" ? 1 : -1);
  all[Math.max(0, Math.min(all.length - 1, next))]!.focus();
}

function back(route: Route): void {
  const [first, second] = route.path;
  if (second === "problem") {
    if (history.length > 1 && lastProblems) go(lastProblems);
    else go(link([first!, "problems"]));
  } else if (second === "problems") go(link([first!]));
  else if (first !== undefined) go("#/");
}

let lastProblems = ""; // the table as it was filtered last
addEventListener("hashchange", () => {
  if (location.hash.includes("/problems")) lastProblems = location.hash;
});

const QUESTIONS: [string, string][] = [
  ["Why this answer?", "a problem: Why this answer, and the vote above the race"],
  ["Which attempts disagreed, and where did they part?", "a problem: the answers, “where they part”"],
  ["What was dropped, by which rule, at which token?", "a problem: the race, and the table below it"],
  ["Would the dropped have changed the vote?", "Overview: pruning errors; a problem: Why this answer"],
  ["Was any problem lost to reading?", "Overview: lost to reading"],
  ["What did each purpose cost?", "Overview: Cost by purpose"],
  ["Which problems does depth help?", "Sweep: choose a cell; the table is ordered by the gain"],
  ["Which tag is worst?", "Overview: Accuracy by tag, the worst first"],
  ["What failed and was retried?", "Overview: Failures and retries"],
  ["What changed between two jobs?", "Comparison"],
];

const KEYS: [string, string][] = [
  ["/", "search"],
  ["↑ ↓", "move through the table, or the lanes of a race"],
  ["Enter", "open the row or the attempt"],
  ["[ ]", "previous and next problem of the table"],
  ["Esc", "back"],
  ["?", "this help"],
];

function Help({ close }: { close: () => void }) {
  const place = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    place.current?.showModal();
  }, []);
  return (
    <dialog ref={place} onClose={close} aria-label="Keys and questions">
      <h2>Keys</h2>
      <dl>{KEYS.map(([key, text]) => <div key={key}><dt><kbd>{key}</kbd></dt><dd>{text}</dd></div>)}</dl>
      <h2>Where to look</h2>
      <dl class="questions">{QUESTIONS.map(([question, place]) => <div key={question}><dt>{question}</dt><dd>{place}</dd></div>)}</dl>
      <button onClick={close} autofocus>close</button>
    </dialog>
  );
}

// --- theme

const THEMES = ["system", "light", "dark"];

function ThemeButton() {
  const [theme, setTheme] = useState(storedTheme);
  useEffect(() => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    try {
      localStorage.setItem("leadline-theme", theme);
    } catch {
      // a file may have no storage: the theme then lasts as long as the page
    }
  }, [theme]);
  const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]!;
  return (
    <button onClick={() => setTheme(next)} aria-label={`Theme: ${theme}; change to ${next}`} title={`theme: ${theme}`}>
      {theme === "dark" ? "☾" : theme === "light" ? "☀" : "◐"}
    </button>
  );
}

function storedTheme(): string {
  try {
    return localStorage.getItem("leadline-theme") ?? "system";
  } catch {
    return "system";
  }
}

const place = document.getElementById("app")!;
const token = document.querySelector<HTMLMetaElement>("meta[name=leadline-token]")?.content;
place.replaceChildren();
render(<App source={token === undefined ? new Embedded() : new Http(token)} />, place);
