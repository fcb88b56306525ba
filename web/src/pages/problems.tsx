// The table of a job's problems: filters, order, and rows that are drawn as far as they are seen.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { JobEntry } from "../model";
import { Outcome, Waiting } from "../parts/common";
import { go, link, replaceQuery, type Route } from "../route";
import { VIEWS } from "../source/query";
import { ANY, type Page, type Query, type Row, type SortKey, type Source } from "../source/source";
import { NONE, count, percent } from "../text/format";

const ROW = 32; // height, as in the style sheet
const SPARE = 12; // rows beyond the edge

interface Column {
  key: SortKey;
  name: string;
  class: string;
  cell: (row: Row) => preact.ComponentChildren;
}

const COLUMNS: Column[] = [
  { key: "outcome", name: "outcome", class: "", cell: (r) => <Outcome outcome={r.outcome} tied={r.tied} /> },
  { key: "answer", name: "answer", class: "text", cell: (r) => r.answer ?? NONE },
  { key: "reference", name: "reference", class: "text wide", cell: (r) => r.reference ?? NONE },
  { key: "agreement", name: "agreement", class: "num", cell: (r) => percent(r.agreement, 0) },
  { key: "n_right", name: "right", class: "num wide", cell: (r) => (r.n_right === null ? NONE : `${r.n_right}/${r.attempts}`) },
  { key: "n_dropped", name: "dropped", class: "num wide", cell: (r) => count(r.n_dropped) },
  { key: "tokens", name: "tokens", class: "num", cell: (r) => count(r.tokens) },
  { key: "depth", name: "depth", class: "num wide", cell: (r) => (r.depth === null ? NONE : String(r.depth)) },
  { key: "question", name: "question", class: "text question wide", cell: (r) => r.question },
];

export function ProblemsPage({ source, job, entry, route }: { source: Source; job: number; entry: JobEntry; route: Route }) {
  const query = useMemo(() => queryOf(route), [route]);
  const [text, setText] = useState(query.text);
  const [range, setRange] = useState<[number, number]>([0, 60]);
  const [at, setAt] = useState(0);
  const [page, setPage] = useState<Page>();
  const [error, setError] = useState("");
  const place = useRef<HTMLDivElement>(null);
  const wanted: Query = { ...query, text, from: range[0], to: range[1] };
  const key = JSON.stringify(wanted);
  useEffect(() => {
    let isCurrent = true;
    source.problems(job, wanted).then(
      (found) => isCurrent && setPage(found),
      (fault: unknown) => isCurrent && setError(fault instanceof Error ? fault.message : String(fault)),
    );
    return () => {
      isCurrent = false;
    };
  }, [source, job, key, entry]); // the entry is another one whenever the job has something new
  useEffect(() => setText(query.text), [query.text]);
  if (!page) return <Waiting error={error} />;
  const { n } = page;
  const columns = COLUMNS.filter(
    (c) => (c.key !== "depth" || entry.overview.has_depths) && (c.key !== "n_dropped" || page.views.dropped),
  );
  const change = (changes: Record<string, string>) => {
    setAt(0);
    if (place.current) place.current.scrollTop = 0;
    setRange([0, 60]);
    replaceQuery(route, changes);
  };
  const move = (to: number) => {
    const next = Math.max(0, Math.min(n - 1, to));
    setAt(next);
    const box = place.current;
    if (!box) return;
    const [top, bottom] = [next * ROW, (next + 2) * ROW];
    if (top < box.scrollTop) box.scrollTop = top;
    else if (bottom > box.scrollTop + box.clientHeight) box.scrollTop = bottom - box.clientHeight;
  };
  const press = (event: KeyboardEvent) => {
    const size = Math.floor((place.current?.clientHeight ?? 400) / ROW) - 2;
    const steps: Record<string, number> = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + size, PageUp: at - size, Home: 0, End: n - 1 };
    if (event.key in steps) {
      event.preventDefault();
      move(steps[event.key]!);
    } else if (event.key === "Enter" && event.target === place.current) {
      const row = page.rows[at - range[0]];
      if (row) go(link([job, "problem", row.id]));
    }
  };
  const scroll = () => {
    const box = place.current!;
    const first = Math.max(0, Math.floor(box.scrollTop / ROW) - SPARE);
    const last = first + Math.ceil(box.clientHeight / ROW) + 2 * SPARE;
    if (first < range[0] || last > range[1]) setRange([Math.max(0, first - SPARE), last + SPARE]);
  };
  return (
    <>
      <header class="title row">
        <h1>
          Problems <small>{entry.overview.name}</small>
        </h1>
        <p class="dim" aria-live="polite">
          {count(n)} of {count(page.n_all)}
        </p>
      </header>
      <Filters page={page} query={query} text={text} setText={setText} change={change} />
      <div
        class="scroll"
        ref={place}
        tabindex={0}
        role="region"
        aria-label="Problems; arrows move, Enter opens"
        onScroll={scroll}
        onKeyDown={press}
      >
        <table class="problems" aria-rowcount={n + 1}>
          <thead>
            <tr>
              <Heading column={{ key: "id", name: "problem" }} query={query} change={change} />
              {columns.map((column) => (
                <Heading key={column.key} column={column} query={query} change={change} />
              ))}
            </tr>
          </thead>
          <tbody>
            <Spacer n={range[0]} />
            {page.rows.map((row, i) => (
              <tr
                key={row.id}
                aria-rowindex={range[0] + i + 2}
                class={range[0] + i === at ? "current" : ""}
                onClick={() => go(link([job, "problem", row.id]))}
              >
                <th scope="row" class="text">
                  <a href={link([job, "problem", row.id])}>{row.id}</a>
                </th>
                {columns.map((column) => (
                  <td key={column.key} class={column.class}>
                    {column.cell(row)}
                  </td>
                ))}
              </tr>
            ))}
            <Spacer n={Math.max(0, n - range[0] - page.rows.length)} />
          </tbody>
        </table>
        {n === 0 && <p class="dim">No problem is like this.</p>}
      </div>
    </>
  );
}

function Spacer({ n }: { n: number }) {
  return n > 0 ? <tr class="spacer" aria-hidden="true" ref={(node) => node?.style.setProperty("height", `${n * ROW}px`)} /> : null;
}

interface HeadingProps {
  column: { key: SortKey; name: string; class?: string };
  query: Query;
  change: (changes: Record<string, string>) => void;
}

function Heading({ column, query, change }: HeadingProps) {
  const isSorted = query.sort === column.key;
  const next = !isSorted ? column.key : query.descending ? "" : `-${column.key}`;
  return (
    <th scope="col" class={column.class} aria-sort={isSorted ? (query.descending ? "descending" : "ascending") : undefined}>
      <button class="sort" onClick={() => change({ sort: next })}>
        {column.name}
        <span aria-hidden="true">{isSorted ? (query.descending ? " ↓" : " ↑") : ""}</span>
      </button>
    </th>
  );
}

interface FilterProps {
  page: Page;
  query: Query;
  text: string;
  setText: (text: string) => void;
  change: (changes: Record<string, string>) => void;
}

function Filters({ page, query, text, setText, change }: FilterProps) {
  const toggled = (list: string[], one: string) => (list.includes(one) ? list.filter((x) => x !== one) : [...list, one]).join(",");
  const tags = Object.fromEntries(query.tags);
  const withTag = (name: string, value: string) =>
    Object.entries({ ...tags, [name]: value }).filter(([, v]) => v).map(([k, v]) => `${k}=${v}`).join(",");
  return (
    <div class="filters" role="search">
      <input
        type="search"
        aria-label="Search problems"
        placeholder="search (press /)"
        value={text}
        onInput={(event) => {
          setText(event.currentTarget.value);
          change({ q: event.currentTarget.value });
        }}
      />
      {Object.entries(page.outcomes).map(([outcome, n]) => (
        <button key={outcome} class={`chip ${outcome}`} aria-pressed={query.outcomes.includes(outcome)} onClick={() => change({ outcome: toggled(query.outcomes, outcome) })}>
          {outcome} <span class="num">{count(n)}</span>
        </button>
      ))}
      {Object.entries(page.views)
        .filter(([name, n]) => n > 0 || query.views.includes(name))
        .map(([name, n]) => (
          <button key={name} class="chip" aria-pressed={query.views.includes(name)} onClick={() => change({ view: toggled(query.views, name) })}>
            {VIEWS[name]?.text ?? name} <span class="num">{count(n)}</span>
          </button>
        ))}
      {Object.entries(page.tags).map(([name, values]) => (
        <label key={name} class="tag">
          {name}{" "}
          <select value={tags[name] ?? ""} onChange={(event) => change({ tag: withTag(name, event.currentTarget.value) })}>
            <option value="">any</option>
            {values.map((value) => (
              <option key={value} value={value}>
                {value}
              </option>
            ))}
          </select>
        </label>
      ))}
    </div>
  );
}

/** What the address asks for: ?q=&outcome=a,b&view=a,b&tag=name=value,...&sort=-tokens */
export function queryOf(route: Route): Query {
  const list = (name: string) => (route.query.get(name) ?? "").split(",").filter(Boolean);
  const sort = route.query.get("sort") ?? "";
  return {
    ...ANY,
    text: route.query.get("q") ?? "",
    outcomes: list("outcome"),
    views: list("view"),
    tags: list("tag").map((one) => [one.slice(0, one.indexOf("=")), one.slice(one.indexOf("=") + 1)]),
    sort: sort.replace(/^-/, "") as SortKey,
    descending: sort.startsWith("-"),
  };
}
