// One problem: why this answer, the race, what was dropped, how the search grew, and the texts.

import { useEffect, useMemo, useState } from "preact/hooks";
import type { AnswerClass, JobEntry, ProblemPage } from "../model";
import { Attempts } from "../parts/attempts";
import { Colours } from "../parts/colours";
import { Cut, Outcome, Panel, Right, Waiting, useValue } from "../parts/common";
import { Race } from "../parts/race";
import { Tree } from "../parts/tree";
import { link, replaceQuery, type Route } from "../route";
import type { Source } from "../source/source";
import { NONE, count, counted, percent } from "../text/format";

interface Props {
  source: Source;
  job: number;
  entry: JobEntry;
  id: string;
  route: Route;
}

export function ProblemPageView({ source, job, entry, id, route }: Props) {
  const [isOpen, setOpen] = useState(false);
  const { value, error } = useValue(
    () => Promise.all([source.problem(job, id), source.neighbours(job, id)]),
    [source, job, id, isOpen && entry], // a problem without a result may have something new whenever its job has
  );
  useEffect(() => setOpen(value?.[0].outcome === "open"), [value]);
  useEffect(() => scrollTo(0, 0), [job, id]);
  if (!value) return <Waiting error={error} />;
  const [page, [before, after]] = value;
  return <Loaded key={`${job} ${page.id}`} page={page} before={before} after={after} job={job} entry={entry} route={route} />;
}

function Loaded(props: { page: ProblemPage; before: string | null; after: string | null; job: number; entry: JobEntry; route: Route }) {
  const { page, job, entry, route } = props;
  const colours = useMemo(() => new Colours(page), [page]);
  const number = (name: string) => (route.query.has(name) ? Number(route.query.get(name)) : null);
  const open = number("attempt");
  const choose = (attempt: number | null) => replaceQuery(route, { attempt: attempt === null ? "" : String(attempt) });
  const chooseTrace = (trace: number) => choose(page.attempts.find((one) => one.traces.includes(trace))?.attempt ?? null);
  const named = useMemo(() => names(page), [page]);
  const command = `${entry.command} ${page.id} --thinking`;
  return (
    <>
      <header class="title row">
        <h1 dir="auto">{page.id}</h1>
        <Outcome outcome={page.outcome} tied={page.tied} />
        <Tags text={page.tags} />
        <nav class="steps" aria-label="Other problems">
          <Neighbour job={job} id={props.before} text="← previous" rel="prev" />
          <Neighbour job={job} id={props.after} text="next →" rel="next" />
        </nav>
      </header>
      <div class="columns two">
        <Panel title="Question" note={`domain ${page.domain}`}>
          <div class="text question" dir="auto">
            {page.question.text ? <Cut text={page.question} /> : <span class="dim">(the problem file no longer has its text)</span>}
          </div>
          {page.reference !== null && (
            <p class="reference">
              <span class="dim">reference</span> <b dir="auto">{page.reference}</b>
              {page.accepted.length > 0 && page.accepted.join(" or ") !== page.reference && <span class="dim"> read as {page.accepted.join(" or ")}</span>}
              {page.accepted.length === 0 && <span class="warn"> which cannot be read</span>}
            </p>
          )}
          {page.error && <p class="bad">{page.error}</p>}
          {page.note && <p class="warn">{page.note}</p>}
        </Panel>
        <Panel title="Why this answer">
          <Why page={page} />
          <Classes page={page} colours={colours} choose={choose} compare={(a, b) => replaceQuery(route, { a: String(a), b: String(b) })} />
        </Panel>
      </div>
      {page.lanes.length > 0 && (
        <Panel title="The race" note="tokens generated one after another, on the critical path" class="wide">
          <Race page={page} colours={colours} chosen={open} choose={choose} />
          {page.replay_note && <p class="warn">{page.replay_note}</p>}
        </Panel>
      )}
      <Dropped page={page} choose={choose} />
      {page.groups.length > 0 && <Groups page={page} choose={chooseTrace} named={named} />}
      {page.tree.length > 0 && (
        <Panel title="The search" note="a line leads from a trace to what continues it or builds on it" class="wide">
          <Tree nodes={page.tree} colours={colours} choose={chooseTrace} />
        </Panel>
      )}
      <Panel title="Attempts" note={counted(page.attempts.length, "attempt")} class="wide" id="texts">
        <Attempts
          page={page}
          colours={colours}
          open={open}
          choose={choose}
          pair={[number("a"), number("b")]}
          setPair={([a, b]) => replaceQuery(route, { a: a === null ? "" : String(a), b: b === null ? "" : String(b) })}
        />
      </Panel>
      <Others page={page} named={named} command={`${entry.command} ${page.id} --others`} />
      <p class="dim">
        {page.n_left_out > 0 && `${count(page.n_left_out)} characters of these texts are not in this file. `}
        All of it: <code>{command}</code>
      </p>
    </>
  );
}

/** A trace by its attempt, as everywhere on the page, unless none or several of them contain it. */
type Named = (trace: number) => string;

function names(page: ProblemPage): Named {
  const found = new Map<number, number[]>();
  for (const one of page.attempts) for (const trace of one.traces) found.set(trace, [...(found.get(trace) ?? []), one.attempt]);
  return (trace) => (found.get(trace)?.length === 1 ? `attempt ${found.get(trace)![0]}` : `trace ${trace}`);
}

function Neighbour({ job, id, text, rel }: { job: number; id: string | null; text: string; rel: string }) {
  return id === null ? <span class="dim">{text}</span> : <a href={link([job, "problem", id])} rel={rel}>{text}</a>;
}

function Tags({ text }: { text: string }) {
  const tags = useMemo(() => {
    try {
      const members = (value: unknown) => (value && typeof value === "object" && !Array.isArray(value) ? Object.entries(value) : []);
      return members(JSON.parse(text || "{}")).flatMap(([name, value]): [string, unknown][] => {
        const inner = members(value);
        return inner.length ? inner.map(([member, one]) => [`${name}.${member}`, one]) : [[name, value]];
      });
    } catch {
      return [];
    }
  }, [text]);
  return (
    <>
      {tags.slice(0, 8).map(([name, value]) => (
        <span key={name} class="pill">
          {name} {String(typeof value === "object" ? JSON.stringify(value) : value).slice(0, 40)}
        </span>
      ))}
    </>
  );
}

/** The answer in sentences: who voted, by what, how close it was, what ended it, and what drops changed. */
function Why({ page }: { page: ProblemPage }) {
  const [first, second] = page.classes;
  if (page.answer === null || !first) {
    return <p>{page.outcome === "open" ? "It has no result yet." : "No attempt gave an answer that could be read."}</p>;
  }
  const n = page.classes.reduce((sum, one) => sum + one.attempts.length, 0);
  const other = page.without_drops;
  return (
    <>
      <p>
        <b class="answer" dir="auto">{page.answer}</b> <Right right={first.right} /> won with {count(first.attempts.length)} of{" "}
        {counted(n, "vote")}, {percent(first.share, 0)} of the weight by <code>{page.selector}</code>
        {page.tied ? `, tied with ${second?.text}: the larger count decided, then the earlier attempt` : ""}
        {second && second.weight > 0 && !page.tied ? `; the next answer, ${second.text}, has ${percent(second.share, 0)}` : ""}.
        {page.stopped_by && ` The exploration was ended by budget.${page.stopped_by}.`}
      </p>
      {other && (
        <p class={other.changed ? "warn" : "dim"}>
          {other.changed
            ? `With the last known answers of the dropped attempts the vote would be ${other.answer ?? "none"}${other.right === null ? "" : other.right ? ", which is right" : ", which is wrong"}.`
            : "With the last known answers of the dropped attempts the vote would be the same."}
          {other.n_unknown > 0 && ` Of ${counted(other.n_unknown, "attempt")} no last answer is known.`}
        </p>
      )}
    </>
  );
}

interface ClassProps {
  page: ProblemPage;
  colours: Colours;
  choose: (attempt: number) => void;
  compare: (first: number, second: number) => void;
}

const MOST_CLASSES = 8;

function Classes({ page, colours, choose, compare }: ClassProps) {
  const leader = page.classes[0]?.attempts[0];
  const most = Math.max(1e-9, ...page.classes.map((one) => one.share));
  const members = (one: AnswerClass) => [...one.attempts, ...one.unused];
  if (!page.classes.length) return null;
  return (
    <table class="classes">
      <thead>
        <tr>
          <th scope="col">answer</th>
          <th scope="col" class="num">votes</th>
          <th scope="col" class="num wide">weight</th>
          <th scope="col">attempts</th>
        </tr>
      </thead>
      <tbody>
        {page.classes.slice(0, MOST_CLASSES).map((one, i) => (
          <tr key={one.key}>
            <th scope="row">
              <span dir="auto">{one.text.slice(0, 80)}</span> <Right right={one.right} />
              <svg class="meter" aria-hidden="true">
                <rect class={colours.of(one.key)} width={percent(one.share / most)} height="5" rx="2" />
              </svg>
            </th>
            <td class="num">{count(one.attempts.length)}</td>
            <td class="num wide">{one.weight ? `${Number(one.weight.toPrecision(3))}` : NONE}</td>
            <td class="members">
              {members(one).slice(0, 10).map((attempt) => (
                <button key={attempt} class={one.attempts.includes(attempt) ? "link" : "link unused"} onClick={() => choose(attempt)}>
                  {attempt}
                </button>
              ))}
              {members(one).length > 10 && <span class="dim">… {count(members(one).length - 10)} more</span>}
              {i > 0 && leader !== undefined && members(one)[0] !== undefined && (
                <button class="link part" onClick={() => compare(leader, members(one)[0]!)}>where they part</button>
              )}
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

/** What was dropped, cancelled or failed: by which rule, at which token, with which answer. */
function Dropped({ page, choose }: { page: ProblemPage; choose: (attempt: number) => void }) {
  const attempts = new Map(page.attempts.map((one) => [one.attempt, one]));
  const rows = page.lanes.flatMap((lane) => {
    const mark = lane.marks.findLast((one) => ["dropped", "cancelled", "failed"].includes(one.kind));
    return mark ? [{ lane, mark, attempt: attempts.get(lane.attempt)! }] : [];
  });
  if (!rows.length) return null;
  const assumed = page.without_drops?.assumed ?? {};
  const right = new Map(page.classes.map((one) => [one.text, one.right]));
  return (
    <Panel title="Dropped, cancelled and failed" note={`${count(rows.length)} of ${counted(page.attempts.length, "attempt")}`} class="wide">
      <div class="rows" tabindex={0} role="region" aria-label="Dropped attempts">
        <table class="dropped">
          <thead>
            <tr>
              <th scope="col" class="num">attempt</th>
              <th scope="col" class="wide">end</th>
              <th scope="col" class="num">at token</th>
              <th scope="col">rule</th>
              <th scope="col">last known answer</th>
            </tr>
          </thead>
          <tbody>
            {rows.map(({ lane, mark, attempt }) => {
              const answer = attempt.answer ?? assumed[String(lane.attempt)] ?? null;
              return (
                <tr key={lane.attempt}>
                  <td class="num">
                    <button class="link" onClick={() => choose(lane.attempt)}>{lane.attempt}</button>
                  </td>
                  <td class="wide">{mark.kind}</td>
                  <td class="num">{count(mark.token)}</td>
                  <td class="wrap">{mark.text}</td>
                  <td dir="auto">
                    {answer?.slice(0, 40) ?? NONE} {answer !== null && <Right right={attempt.right ?? right.get(answer) ?? null} />}
                  </td>
                </tr>
              );
            })}
          </tbody>
        </table>
      </div>
    </Panel>
  );
}

function Groups({ page, choose, named }: { page: ProblemPage; choose: (trace: number) => void; named: Named }) {
  return (
    <Panel title="Groups that the strategy formed" note="each with the text that founded it" class="wide">
      <ul class="groups">
        {page.groups.map((group) => (
          <li key={group.name}>
            <b>{group.name}</b> <span class="dim">founded by {named(group.founder)}, {counted(group.members.length, "member")}</span>
            <div class="text prefix" dir="auto"><Cut text={group.prefix} /></div>
            <p class="members">
              {group.members.slice(0, 40).map((member) => (
                <button key={member.trace} class="link" title={member.text} onClick={() => choose(member.trace)}>
                  {named(member.trace).replace("attempt ", "")}
                </button>
              ))}
            </p>
          </li>
        ))}
      </ul>
    </Panel>
  );
}

function Others({ page, named, command }: { page: ProblemPage; named: Named; command: string }) {
  if (!page.n_others) return null;
  const purposes = [...new Set(page.others.map((one) => one.purpose))];
  return (
    <details class="panel">
      <summary>{counted(page.n_others, "other trace")}: {purposes.join(", ")}</summary>
      <div class="rows" tabindex={0} role="region" aria-label="Other traces">
        <table>
          <thead>
            <tr>
              <th scope="col" class="num">trace</th>
              <th scope="col">purpose</th>
              <th scope="col">about</th>
              <th scope="col">answer</th>
              <th scope="col" class="num">tokens</th>
              <th scope="col">text</th>
            </tr>
          </thead>
          <tbody>
            {page.others.slice(0, 300).map((one) => (
              <tr key={one.trace}>
                <td class="num">{one.trace}</td>
                <td>{one.purpose}</td>
                <td>{one.about.map(named).join(", ")}</td>
                <td dir="auto">{one.answer?.slice(0, 40) ?? NONE}</td>
                <td class="num">{count(one.tokens)}</td>
                <td class="wrap dim" dir="auto">{one.error || `${one.text.text.slice(0, 160)}${one.text.n_left_out ? " …" : ""}`}</td>
              </tr>
            ))}
          </tbody>
        </table>
        {page.n_others > Math.min(300, page.others.length) && <p class="dim">All of them: <code>{command}</code></p>}
      </div>
    </details>
  );
}
