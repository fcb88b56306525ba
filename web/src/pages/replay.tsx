// A replay: accuracy against tokens, with intervals, and the frontier of what no other setting beats.

import type { ReplayPage } from "../model";
import { Panel } from "../parts/common";
import { Scatter, type Point } from "../parts/scatter";
import { replaceQuery, type Route } from "../route";
import { count, interval, percent, short } from "../text/format";

type Setting = ReplayPage["points"][number];

export function ReplayView({ page, route }: { page: ReplayPage; route: Route }) {
  const sources = [...new Set(page.points.map((point) => point.source))];
  const source = route.query.get("source") ?? sources.at(-1) ?? "";
  const rows = page.points.filter((point) => point.source === source);
  const front = frontier(rows);
  const values = rows.flatMap((r) => [r.accuracy.low ?? r.accuracy.value, r.accuracy.high ?? r.accuracy.value]);
  const margin = 0.03;
  const range: [number, number] = [Math.max(0, Math.min(...values) - margin), Math.min(1, Math.max(...values) + margin)];
  return (
    <>
      <header class="title">
        <h1>{page.name}</h1>
        <p class="dim">strategies on recorded traces; intervals are 95%, over problems</p>
      </header>
      {sources.length > 1 && (
        <p class="filters">
          {sources.map((one) => (
            <button key={one} class="chip" aria-pressed={one === source} onClick={() => replaceQuery(route, { source: one })}>{one}</button>
          ))}
        </p>
      )}
      <Panel title="Accuracy against tokens" note="the line: no other setting is as accurate for as little" class="wide">
        <Scatter
          points={rows.map((row) => point(row, front.includes(row)))}
          name="Accuracy against output tokens of a problem"
          xName="output tokens of a problem"
          yName="accuracy"
          xText={short}
          yText={(v) => percent(v, 0)}
          yRange={range}
          line={front.map((row) => [row.tokens.value, row.accuracy.value])}
        />
      </Panel>
      <Panel title="Settings" class="wide">
        <div class="rows" tabindex={0} role="region" aria-label="Table of settings">
          <table>
            <thead>
              <tr>
                <th scope="col">strategy</th>
                <th scope="col">selector</th>
                <th scope="col" class="num">accuracy</th>
                <th scope="col" class="num wide">95% interval</th>
                <th scope="col" class="num">tokens</th>
                <th scope="col" class="num wide">pruned</th>
                <th scope="col" class="num wide">probes</th>
                <th scope="col" class="num wide">attempts</th>
                <th scope="col" class="num wide">critical path</th>
                <th scope="col" class="num wide">pruning errors</th>
                <th scope="col" class="num wide">full sampling</th>
              </tr>
            </thead>
            <tbody>
              {rows.map((row) => (
                <tr key={`${row.strategy} ${row.selector}`} class={front.includes(row) ? "front" : ""}>
                  <th scope="row">{row.strategy}{front.includes(row) && " •"}</th>
                  <td>{row.selector}</td>
                  <td class="num">{percent(row.accuracy.value)}</td>
                  <td class="num wide">{interval(row.accuracy)}</td>
                  <td class="num">{count(row.tokens.value)}</td>
                  <td class="num wide">{count(row.pruned_tokens)}</td>
                  <td class="num wide">{count(row.probe_tokens)}</td>
                  <td class="num wide">{row.n_attempts.toFixed(1)}</td>
                  <td class="num wide">{count(row.path_tokens)}</td>
                  <td class="num wide">{percent(row.pruning_errors)}</td>
                  <td class="num wide">{percent(row.full_accuracy)} for {count(row.full_tokens)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      </Panel>
    </>
  );
}

function point(row: Setting, isFront: boolean): Point {
  const between = (e: Setting["accuracy"]): [number, number] => [e.low ?? e.value, e.high ?? e.value];
  return {
    x: row.tokens.value,
    y: row.accuracy.value,
    xs: between(row.tokens),
    ys: between(row.accuracy),
    class: isFront ? "front" : "",
    text: `${row.strategy}, ${row.selector}: ${percent(row.accuracy.value)} (${interval(row.accuracy) || "no interval"}) for ${count(row.tokens.value)} tokens`,
    label: isFront ? row.strategy : undefined,
  };
}

/** The settings than which no other is as accurate for as few tokens, the cheapest first. */
export function frontier(rows: Setting[]): Setting[] {
  const [t, a] = [(r: Setting) => r.tokens.value, (r: Setting) => r.accuracy.value];
  const beaten = (r: Setting) => rows.some((o) => t(o) <= t(r) && a(o) >= a(r) && (t(o) < t(r) || a(o) > a(r)));
  return rows.filter((row) => !beaten(row)).sort((x, y) => t(x) - t(y));
}
