// Two jobs side by side, on the problems that both answered.

import { useMemo } from "preact/hooks";
import type { ComparisonPage, Difference, Estimate, Index, Overview } from "../model";
import { Panel } from "../parts/common";
import { Scatter, type Point } from "../parts/scatter";
import { link, replaceQuery, type Route } from "../route";
import { NONE, count, fixed, percent, points, short } from "../text/format";

type Paired = ComparisonPage["problems"][number];
const KINDS = ["lost", "gained", "right in both", "wrong in both"] as const;

function kind(one: Paired): (typeof KINDS)[number] {
  const [a, b] = one.right;
  return a === b ? (a ? "right in both" : "wrong in both") : b ? "gained" : "lost";
}

export function CompareView({ index, place, route }: { index: Index; place: number; route: Route }) {
  const page = index.comparisons[place]!;
  const [a, b] = [index.jobs[page.first]!.overview, index.jobs[page.second]!.overview];
  const { comparison } = page;
  const shown = route.query.get("show") ?? "";
  const settings = useMemo(() => differing(comparison.settings, a, b), [comparison, a, b]);
  const marks = useMemo(() => scatter(page), [page]);
  return (
    <>
      <header class="title">
        <h1>
          {a.name} <small>and</small> {b.name}
        </h1>
        <p class="dim">
          A <code>{a.strategy}</code> · B <code>{b.strategy}</code>
        </p>
      </header>
      <div class="columns">
        <Panel title="The difference" note={`over ${count(comparison.difference.n)} problems of both`}>
          <Differences rows={[["", comparison.difference]]} withTokens />
          <p>
            <Chip text="lost" n={page.problems.filter((p) => kind(p) === "lost").length} shown={shown} route={route} />{" "}
            <Chip text="gained" n={page.problems.filter((p) => kind(p) === "gained").length} shown={shown} route={route} />{" "}
            <Chip text="right in both" n={comparison.n_both_right} shown={shown} route={route} />{" "}
            <Chip text="wrong in both" n={comparison.n_both_wrong} shown={shown} route={route} />
          </p>
          {comparison.n_both_wrong > 0 && <p class="dim">Of those wrong in both, {count(comparison.n_other_answer)} have another answer.</p>}
        </Panel>
        <Panel title="What differs in the plans">
          {settings.length ? (
            <ul class="plain code">
              {settings.map((line) => <li key={line}>{line}</li>)}
            </ul>
          ) : (
            <p>Nothing: both have the same plan.</p>
          )}
          {comparison.notes.map((note) => <p key={note} class="warn">{note}</p>)}
        </Panel>
        {comparison.tags.length > 0 && (
          <Panel title="By tag">
            <Differences
              rows={comparison.tags.map((t) => [`${t.tag} = ${t.value}`, t.difference])}
              addresses={comparison.tags.map((t) => link([page.second, "problems"], { tag: `${t.tag}=${t.value}` }))}
            />
          </Panel>
        )}
        <Panel title="Tokens of each problem" note="right of the line, A spent more">
          <Scatter points={marks} name="Output tokens of each problem in A and B" xName="tokens in A" yName="tokens in B" xText={short} yText={short} isSquare />
        </Panel>
      </div>
      <PairedTable page={page} shown={shown} />
    </>
  );
}

/** What differs; a strategy and a selector with their options are one line each, since others have other options. */
function differing(settings: string[], a: Overview, b: Overview): string[] {
  const parts = (["strategy", "selector"] as const).filter((part) => a[part] !== b[part]).map((part) => `${part}: ${a[part]} -> ${b[part]}`);
  return [...parts, ...settings.filter((line) => !/^(strategy|selector)[.:]/.test(line))];
}

function scatter(page: ComparisonPage): Point[] {
  return page.problems.slice(0, 3000).map((one) => ({
    x: one.tokens[0],
    y: one.tokens[1],
    class: kind(one).replaceAll(" ", "-"),
    text: `${one.id}: ${kind(one)}, ${count(one.tokens[0])} and ${count(one.tokens[1])} tokens`,
  }));
}

function Chip({ text, n, shown, route }: { text: string; n: number; shown: string; route: Route }) {
  return (
    <button class={`chip ${text.replaceAll(" ", "-")}`} aria-pressed={shown === text} onClick={() => replaceQuery(route, { show: shown === text ? "" : text })}>
      <svg width="9" height="9" aria-hidden="true" class={`point ${text.replaceAll(" ", "-")}`}>
        <circle cx="4.5" cy="4.5" r="4" />
      </svg>
      {text} <span class="num">{count(n)}</span>
    </button>
  );
}

/** `addresses` are those of the rows' names: the problems of B that a row is about. */
function Differences({ rows, addresses, withTokens = false }: { rows: [string, Difference][]; addresses?: string[]; withTokens?: boolean }) {
  const cells = (first: string, second: string, difference: string, bounds: string) => (
    <>
      <td class="num">{first}</td>
      <td class="num">{second}</td>
      <td class="num">{difference}</td>
      <td class="num wide">{bounds}</td>
    </>
  );
  return (
    <table>
      <thead>
        <tr>
          <th scope="col">{withTokens ? "of a problem" : "tag"}</th>
          <th scope="col" class="num">A</th>
          <th scope="col" class="num">B</th>
          <th scope="col" class="num">B − A</th>
          <th scope="col" class="num wide">95% interval</th>
        </tr>
      </thead>
      <tbody>
        {rows.map(([name, d], i) => (
          <tr key={name}>
            <th scope="row">{addresses ? <a href={addresses[i]}>{name}</a> : name || "accuracy"}</th>
            {cells(percent(d.first.value), percent(d.second.value), points(d.accuracy.value), bounds(d.accuracy, (v) => fixed(100 * v, 1)))}
          </tr>
        ))}
        {withTokens &&
          rows.map(([name, d]) => (
            <tr key={`${name} tokens`}>
              <th scope="row">output tokens</th>
              {cells(short(Math.round(d.first_tokens)), short(Math.round(d.second_tokens)), signed(d.tokens.value), bounds(d.tokens, signed))}
            </tr>
          ))}
      </tbody>
    </table>
  );
}

function signed(value: number): string {
  const n = Math.round(value);
  return `${n > 0 ? "+" : n < 0 ? "−" : ""}${short(Math.abs(n))}`;
}

function bounds(estimate: Estimate, write: (value: number) => string): string {
  return estimate.low === null || estimate.high === null ? NONE : `${write(estimate.low)} to ${write(estimate.high)}`;
}

const MOST = 500;

function PairedTable({ page, shown }: { page: ComparisonPage; shown: string }) {
  const rows = useMemo(() => {
    const kept = shown ? page.problems.filter((one) => kind(one) === shown) : page.problems;
    return [...kept].sort((a, b) => KINDS.indexOf(kind(a)) - KINDS.indexOf(kind(b)));
  }, [page, shown]);
  return (
    <Panel title="Problem by problem" note={shown || "those that changed first"} class="wide">
      <div class="rows tall" tabindex={0} role="region" aria-label="Table of problems">
        <table>
          <thead>
            <tr>
              <th scope="col">problem</th>
              <th scope="col">change</th>
              <th scope="col">A</th>
              <th scope="col">B</th>
              <th scope="col" class="num wide">tokens A</th>
              <th scope="col" class="num wide">tokens B</th>
            </tr>
          </thead>
          <tbody>
            {rows.slice(0, MOST).map((one) => (
              <tr key={one.id}>
                <th scope="row">
                  <a href={link([page.second, "problem", one.id])}>{one.id}</a>
                </th>
                <td class={kind(one) === "gained" ? "ok" : kind(one) === "lost" ? "bad" : "dim"}>{kind(one)}</td>
                {([page.first, page.second] as const).map((job, i) => (
                  <td key={i} class="text">
                    <a href={link([job, "problem", one.id])}>{one.answers[i]?.slice(0, 40) ?? "no answer"}</a>
                  </td>
                ))}
                <td class="num wide">{count(one.tokens[0])}</td>
                <td class="num wide">{count(one.tokens[1])}</td>
              </tr>
            ))}
          </tbody>
        </table>
        {rows.length > MOST && <p class="dim">the first {MOST} of {count(rows.length)}</p>}
      </div>
    </Panel>
  );
}
