// A sweep: the surface of accuracy over effort and width, and the problems behind a cell.

import { useMemo } from "preact/hooks";
import type { Index, Setting, SweepPage } from "../model";
import { Panel } from "../parts/common";
import { Scatter } from "../parts/scatter";
import { link, replaceQuery, type Route } from "../route";
import { count, counted, interval, percent, points, short } from "../text/format";

export function SweepView({ index, place, route }: { index: Index; place: number; route: Route }) {
  const sweep = index.sweeps[place]!;
  const { surface } = sweep;
  const chosen = {
    effort: Math.min(Number(route.query.get("effort") ?? effortOf(sweep, surface.cheapest)), surface.levels.length - 1),
    width: Math.min(Number(route.query.get("width") ?? surface.cheapest % surface.widths.length), surface.widths.length - 1),
  };
  const best = surface.settings[surface.best]!;
  const cheapest = surface.settings[surface.cheapest]!;
  return (
    <>
      <header class="title">
        <h1>{sweep.name}</h1>
        <p class="dim">
          accuracy over effort and width, by <code>{surface.selector}</code>, on {counted(surface.n_problems, "problem")}
          {surface.n_left_out > 0 && `; ${count(surface.n_left_out)} were left out`}
        </p>
      </header>
      <div class="columns">
        <Panel title="The surface" note="choose a cell for the problems behind it">
        <Heat sweep={sweep} chosen={chosen} choose={(effort, width) => replaceQuery(route, { effort: String(effort), width: String(width) })} />
        <p class="dim">
          ★ best: {name(best)}, {percent(best.accuracy.value)} ({interval(best.accuracy) || "no interval"}) for {short(best.layer_tokens)} {surface.unit} a problem.
        </p>
        <p class="dim">
          ◆ the cheapest within one interval of it: {name(cheapest)}, {percent(cheapest.accuracy.value)} ({interval(cheapest.accuracy) || "no interval"}) for{" "}
          {short(cheapest.layer_tokens)}. • none is as accurate for as little.
        </p>
      </Panel>
      <Panel title="Accuracy against cost" note="intervals are 95%, over problems">
        <Costs sweep={sweep} place={place} chosen={chosen} />
      </Panel>
      </div>
      <Behind index={index} sweep={sweep} chosen={chosen} route={route} />
    </>
  );
}

function effortOf(sweep: SweepPage, setting: number): number {
  return Math.floor(setting / sweep.surface.widths.length);
}

function effortName(level: { depth: number; thinking: number }): string {
  const parts = [level.depth ? `depth ${level.depth}` : "", level.thinking ? `thinking ${level.thinking}` : ""];
  return parts.filter(Boolean).join(", ") || "its own depth";
}

function name(setting: Setting): string {
  return `${effortName(setting)}, width ${setting.width}`;
}

interface Cell {
  effort: number;
  width: number;
}

function Heat({ sweep, chosen, choose }: { sweep: SweepPage; chosen: Cell; choose: (effort: number, width: number) => void }) {
  const { surface } = sweep;
  const values = surface.settings.map((s) => s.accuracy.value);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const press = (effort: number, width: number) => (event: KeyboardEvent) => {
    const steps: Record<string, [number, number]> = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    const target = document.querySelector<HTMLElement>(`[data-cell="${effort + step[0]} ${width + step[1]}"]`);
    target?.focus();
  };
  return (
    <div class="rows" tabindex={0} role="region" aria-label="Surface">
      <table class="surface">
        <thead>
          <tr>
            <th scope="col">effort</th>
            {surface.widths.map((width) => (
              <th key={width} scope="col" class="num">width {width}</th>
            ))}
          </tr>
        </thead>
        <tbody>
          {surface.levels.map((level, effort) => (
            <tr key={effort}>
              <th scope="row">{effortName(level)}</th>
              {surface.widths.map((_, width) => {
                const place = effort * surface.widths.length + width;
                const setting = surface.settings[place]!;
                const mark = place === surface.cheapest ? "◆" : place === surface.best ? "★" : setting.on_front ? "•" : "";
                const isChosen = chosen.effort === effort && chosen.width === width;
                const strength = high > low ? (setting.accuracy.value - low) / (high - low) : 1;
                return (
                  <td key={width}>
                    <button
                      class={`heat-cell h-${Math.round(strength * 9)}`}
                      aria-pressed={isChosen}
                      data-cell={`${effort} ${width}`}
                      title={`${name(setting)}: ${percent(setting.accuracy.value)} (${interval(setting.accuracy) || "no interval"}), ${short(setting.layer_tokens)} ${surface.unit} a problem; ${points(-setting.below_best.value)} against the best`}
                      onClick={() => choose(effort, width)}
                      onKeyDown={press(effort, width)}
                    >
                      {percent(setting.accuracy.value, 0)} {mark}
                    </button>
                  </td>
                );
              })}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** Every setting over its cost; a point leads to its cell. */
function Costs({ sweep, place, chosen }: { sweep: SweepPage; place: number; chosen: Cell }) {
  const { settings, widths, unit } = sweep.surface;
  const bounds = settings.flatMap(({ accuracy }) => [accuracy.low ?? accuracy.value, accuracy.high ?? accuracy.value]);
  const front = settings.filter((one) => one.on_front).sort((a, b) => a.layer_tokens - b.layer_tokens);
  const points = settings.map((one, i) => {
    const [effort, width] = [Math.floor(i / widths.length), i % widths.length];
    const isChosen = effort === chosen.effort && width === chosen.width;
    return {
      x: one.layer_tokens,
      y: one.accuracy.value,
      ys: one.on_front || isChosen ? ([one.accuracy.low ?? one.accuracy.value, one.accuracy.high ?? one.accuracy.value] as [number, number]) : undefined,
      class: `${one.on_front ? "front" : ""} ${isChosen ? "chosen" : ""}`,
      text: `${name(one)}: ${percent(one.accuracy.value)} (${interval(one.accuracy) || "no interval"}) for ${short(one.layer_tokens)} ${unit}`,
      label: one.on_front ? name(one) : undefined,
      href: link(["sweep", place], { effort: String(effort), width: String(width) }),
    };
  });
  return (
    <Scatter
      points={points}
      name={`Accuracy against ${unit} of a problem`}
      xName={`${unit} of a problem`}
      yName="accuracy"
      xText={short}
      yText={(v) => percent(v, 0)}
      yRange={[Math.max(0, Math.min(...bounds) - 0.03), Math.min(1, Math.max(...bounds) + 0.03)]}
      isLog
      line={front.map((one) => [one.layer_tokens, one.accuracy.value])}
    />
  );
}

const MOST = 400;

function Behind({ index, sweep, chosen, route }: { index: Index; sweep: SweepPage; chosen: Cell; route: Route }) {
  const { surface, efforts } = sweep;
  const sort = route.query.get("sort") ?? "gain";
  const rows = useMemo(() => {
    const first = efforts[0]?.chances ?? {};
    const ids = Object.keys(efforts[chosen.effort]?.chances ?? {});
    const found = ids.map((id) => ({
      id,
      chances: efforts.map((effort) => effort.chances[id]?.[chosen.width] ?? null),
      gain: (efforts[chosen.effort]?.chances[id]?.[chosen.width] ?? 0) - (first[id]?.[chosen.width] ?? 0),
    }));
    const value = (row: (typeof found)[number]) => (sort === "gain" ? -row.gain : (row.chances[chosen.effort] ?? 0));
    return found.sort((a, b) => value(a) - value(b) || a.id.localeCompare(b.id, "en", { numeric: true }));
  }, [sweep, chosen.effort, chosen.width, sort]);
  const level = surface.levels[chosen.effort]!;
  const job = efforts[chosen.effort]?.job ?? -1;
  const n = rows.filter((row) => row.gain > 0.1).length;
  return (
    <Panel title={`Problems behind ${effortName(level)}, width ${surface.widths[chosen.width]}`} note="the chance that the majority is right" class="wide">
      <p class="dim">
        {counted(n, "problem")} gain more than 10 points over {effortName(surface.levels[0]!)}.{" "}
        {job >= 0 && <a href={link([job, "problems"])}>the job of {effortName(level)}: {index.jobs[job]?.overview.name}</a>}
      </p>
      <div class="rows tall" tabindex={0} role="region" aria-label="Problems behind the cell">
        <table>
          <thead>
            <tr>
              <th scope="col">problem</th>
              {surface.levels.map((one, i) => (
                <th key={i} scope="col" class={`num ${i === chosen.effort ? "" : "wide"}`}>
                  {i === chosen.effort ? <button class="sort" onClick={() => replaceQuery(route, { sort: "chance" })}>{effortName(one)}{sort === "chance" ? " ↑" : ""}</button> : effortName(one)}
                </th>
              ))}
              <th scope="col" class="num">
                <button class="sort" onClick={() => replaceQuery(route, { sort: "gain" })}>gain{sort === "gain" ? " ↓" : ""}</button>
              </th>
            </tr>
          </thead>
          <tbody>
            {rows.slice(0, MOST).map((row) => (
              <tr key={row.id}>
                <th scope="row">{job >= 0 ? <a href={link([job, "problem", row.id])}>{row.id}</a> : row.id}</th>
                {row.chances.map((chance, i) => (
                  <td key={i} class={`num ${i === chosen.effort ? "" : "wide"}`}>
                    <span class={`chance h-${Math.round((chance ?? 0) * 9)}`}>{percent(chance, 0)}</span>
                  </td>
                ))}
                <td class={`num ${row.gain > 0.1 ? "ok" : row.gain < -0.1 ? "bad" : ""}`}>{points(row.gain)}</td>
              </tr>
            ))}
          </tbody>
        </table>
        {rows.length > MOST && <p class="dim">the first {MOST} of {count(rows.length)}</p>}
      </div>
    </Panel>
  );
}
