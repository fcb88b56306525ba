// The race: a lane for each attempt over tokens, and the vote above the lanes on the same axis.

import { useMemo, useState } from "preact/hooks";
import type { Attempt, Lane, Mark, ProblemPage, VotePoint } from "../model";
import { count, percent, short, ticks } from "../text/format";
import type { Colours } from "./colours";
import { useWidth } from "./common";

const LEFT = 52;
const RIGHT = 12;
const VOTE = 96; // height of the vote
const GAP = 22;
const LAST = 12; // least width of the last vote

export interface RaceProps {
  page: ProblemPage;
  colours: Colours;
  chosen: number | null;
  choose: (attempt: number) => void;
}

export function Race({ page, colours, chosen, choose }: RaceProps) {
  const [place, width] = useWidth<HTMLDivElement>();
  const [shown, setShown] = useState<number | null>(null);
  const lanes = useMemo(() => ordered(page), [page]);
  const attempts = useMemo(() => new Map(page.attempts.map((a) => [a.attempt, a])), [page]);
  const most = Math.max(1, ...page.lanes.flatMap((l) => l.segments.map((s) => s.end)), ...page.vote.map((v) => v.at));
  const right = width < 560 ? RIGHT : 132;
  const x = (at: number) => LEFT + (at / most) * Math.max(40, width - LEFT - right);
  const row = lanes.length > 48 ? 11 : lanes.length > 24 ? 15 : 20;
  const top = page.vote.length ? VOTE + GAP : 6;
  const height = top + lanes.length * row + 26;
  const told = shown ?? chosen;
  return (
    <div class="race" ref={place}>
      <svg width={width} height={height} role="group" aria-label="The attempts over tokens, with the vote above">
        <Axis x={x} most={most} top={page.vote.length ? 8 : 0} bottom={height - 24} width={width} right={right} />
        {page.vote.length > 0 && <Vote points={page.vote} page={page} colours={colours} x={x} most={most} />}
        {lanes.map((lane, i) => (
          <LaneRow
            key={lane.attempt}
            lane={lane}
            attempt={attempts.get(lane.attempt)!}
            colours={colours}
            x={x}
            y={top + i * row}
            row={row}
            width={width}
            hasLabel={right > RIGHT}
            isChosen={chosen === lane.attempt}
            choose={choose}
            show={setShown}
          />
        ))}
      </svg>
      <p class="story" aria-live="polite">
        {told !== null && attempts.has(told) ? (
          <Story attempt={attempts.get(told)!} lane={page.lanes.find((l) => l.attempt === told)!} />
        ) : (
          <span class="dim">Point at a lane, or move through them with ↑ and ↓. Enter opens the attempt's text.</span>
        )}
      </p>
      <Legend page={page} colours={colours} />
    </div>
  );
}

/** The lanes by class of answers, the leading one first; attempts without an answer last. */
function ordered(page: ProblemPage): Lane[] {
  const places = new Map(page.classes.map((one, place) => [one.key, place]));
  const keys = new Map(page.attempts.map((a) => [a.attempt, a.key]));
  const place = (lane: Lane) => places.get(keys.get(lane.attempt) ?? "") ?? page.classes.length;
  const start = (lane: Lane) => lane.segments[0]?.start ?? 0;
  return [...page.lanes].sort((a, b) => place(a) - place(b) || start(a) - start(b) || a.attempt - b.attempt);
}

function Axis(props: { x: (at: number) => number; most: number; top: number; bottom: number; width: number; right: number }) {
  const { x, most, top, bottom, width } = props;
  return (
    <g class="axis" aria-hidden="true">
      {ticks(most, Math.max(2, Math.min(8, (width - LEFT - props.right) / 90)), 0, 1).map((at) => (
        <g key={at}>
          <line x1={x(at)} x2={x(at)} y1={top} y2={bottom} />
          <text x={x(at)} y={bottom + 15} text-anchor="middle">
            {short(at)}
          </text>
        </g>
      ))}
      <text x={LEFT - 8} y={bottom + 15} text-anchor="end">
        tokens
      </text>
    </g>
  );
}

interface VoteProps {
  points: VotePoint[];
  page: ProblemPage;
  colours: Colours;
  x: (at: number) => number;
  most: number;
}

/** The shares of the answers as areas, and how certain the leader is as a line. */
function Vote({ points, page, colours, x, most }: VoteProps) {
  const top = 8;
  const y = (share: number) => top + (1 - share) * (VOTE - top);
  // the last vote is drawn beyond the end, where an attempt that ended last would leave it no room
  const ends = points.map((p, i) => (points[i + 1] ? x(points[i + 1]!.at) : Math.max(x(most), x(p.at) + LAST)));
  const bands = points.flatMap((point, i) => {
    const total = Object.values(point.weights).reduce((sum, weight) => sum + weight, 0) || 1;
    let base = 0;
    return page.classes.map((one) => {
      const share = (point.weights[one.key] ?? 0) / total;
      base += share;
      const [from, to] = [x(point.at), ends[i]!];
      return share > 0 && to > from ? (
        <rect key={`${i} ${one.key}`} class={colours.of(one.key)} x={from} width={to - from} y={y(base)} height={share * (VOTE - top)} />
      ) : null;
    });
  });
  const line = points.map((p, i) => `${i ? "L" : "M"}${x(p.at)} ${y(p.certainty)}L${ends[i]} ${y(p.certainty)}`).join("");
  const last = points.at(-1)!;
  return (
    <g class="vote">
      <title>
        {`The vote after each answer. In the end the leader is certain to ${percent(last.certainty)} ` +
          "(Beta posterior over the counts of the first two answers)."}
      </title>
      <g class="bands">{bands}</g>
      <path d={line} class="halo" />
      <path d={line} class="certainty" />
      {[0, 0.5, 1].map((share) => (
        <g key={share} class="axis" aria-hidden="true">
          <line x1={LEFT - 4} x2={LEFT} y1={y(share)} y2={y(share)} />
          <text x={LEFT - 8} y={y(share) + 4} text-anchor="end">
            {percent(share, 0)}
          </text>
        </g>
      ))}
    </g>
  );
}

interface LaneProps {
  lane: Lane;
  attempt: Attempt;
  colours: Colours;
  x: (at: number) => number;
  y: number;
  row: number;
  width: number;
  hasLabel: boolean;
  isChosen: boolean;
  choose: (attempt: number) => void;
  show: (attempt: number | null) => void;
}

const LOST = new Set(["dropped", "cancelled", "failed"]);

function LaneRow(props: LaneProps) {
  const { lane, attempt, colours, x, y, row, width } = props;
  const middle = y + row / 2;
  const thick = Math.max(4, row * 0.42);
  const last = lane.segments.at(-1);
  const key = (event: KeyboardEvent) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      props.choose(lane.attempt);
    }
  };
  const label = attempt.answer === null ? attempt.state : attempt.answer;
  return (
    <g
      class={`lane ${LOST.has(attempt.state) ? "lost" : ""} ${props.isChosen ? "chosen" : ""}`}
      role="button"
      tabindex={0}
      aria-label={story(attempt, lane)}
      data-attempt={lane.attempt}
      onClick={() => props.choose(lane.attempt)}
      onKeyDown={key}
      onFocus={() => props.show(lane.attempt)}
      onBlur={() => props.show(null)}
      onMouseEnter={() => props.show(lane.attempt)}
      onMouseLeave={() => props.show(null)}
    >
      <rect class="row" x={0} y={y} width={width} height={row} />
      {row > 12 && (
        <text x={LEFT - 8} y={middle + 4} text-anchor="end">
          {attempt.right === true ? "✓ " : attempt.right === false ? "✗ " : ""}
          {lane.attempt}
        </text>
      )}
      {last && <line class="wait" x1={x(lane.segments[0]!.start)} x2={x(last.end)} y1={middle} y2={middle} />}
      {lane.segments.map((s) => (
        <rect
          key={s.trace}
          class={`bar ${colours.of(attempt.key)}`}
          x={x(s.start)}
          y={middle - thick / 2}
          width={Math.max(1.5, x(s.end) - x(s.start) - (lane.segments.length > 1 ? 0.75 : 0))}
          height={thick}
        />
      ))}
      {lane.marks.map((mark, i) => (
        <MarkShape key={i} mark={mark} x={x(mark.at)} y={middle} thick={thick} colours={colours} />
      ))}
      {props.hasLabel && last && row > 12 && (
        <text class="end" x={Math.min(x(last.end) + 10, width - 124)} y={middle + 4}>
          {label.length > 16 ? `${label.slice(0, 15)}…` : label}
        </text>
      )}
    </g>
  );
}

function MarkShape({ mark, x, y, thick, colours }: { mark: Mark; x: number; y: number; thick: number; colours: Colours }) {
  const r = Math.max(3, thick / 2);
  const title = <title>{`${mark.kind} at token ${count(mark.token)}: ${mark.answer ?? ""} ${mark.text}`}</title>;
  switch (mark.kind) {
    case "dropped":
      return <path class="mark dropped" d={`M${x - r} ${y - r}L${x + r} ${y + r}M${x - r} ${y + r}L${x + r} ${y - r}`}>{title}</path>;
    case "cancelled":
      return <path class="mark cancelled" d={`M${x} ${y - r - 1}V${y + r + 1}M${x + 3} ${y - r - 1}V${y + r + 1}`}>{title}</path>;
    case "failed":
      return <path class="mark failed" d={`M${x} ${y - r - 1}L${x + r + 1} ${y + r}H${x - r - 1}Z`}>{title}</path>;
    case "group":
      return <path class="mark group" d={`M${x} ${y - r - 1}L${x + r + 1} ${y}L${x} ${y + r + 1}L${x - r - 1} ${y}Z`}>{title}</path>;
    case "answer":
      return <circle class={`mark answer ${colours.ofText(mark.answer)}`} cx={x} cy={y} r={r + 0.5}>{title}</circle>;
    case "forced":
      return <path class="mark forced" d={`M${x} ${y - r - 1}V${y + r + 1}`}>{title}</path>;
    default: // a probe, a verdict or a comparison
      return <circle class={`mark ${mark.kind} ${colours.ofText(mark.answer)}`} cx={x} cy={y} r={Math.min(3, r)}>{title}</circle>;
  }
}

const ENDS = ["dropped", "cancelled", "failed"];

/** What became of an attempt, in a sentence. */
export function story(attempt: Attempt, lane: Lane): string {
  const end = lane.marks.findLast((mark) => ENDS.includes(mark.kind));
  const n = lane.marks.filter((mark) => mark.kind === "probe").length;
  const holds = attempt.answer === null ? "without an answer" : `answer ${attempt.answer}`;
  const right = attempt.right === null ? "" : attempt.right ? ", right" : ", wrong";
  const probes = n ? `, probed ${n} times` : "";
  const why = end ? `; ${end.kind} at token ${count(end.token)}: ${end.text}` : `, ${attempt.state}`;
  return `Attempt ${attempt.attempt}: ${count(attempt.tokens)} tokens${probes}, ${holds}${right}${why}`;
}

function Story({ attempt, lane }: { attempt: Attempt; lane: Lane }) {
  return <>{story(attempt, lane)}</>;
}

const KINDS: Record<string, string> = {
  answer: "answer",
  probe: "probe",
  group: "grouped",
  dropped: "dropped",
  cancelled: "cancelled",
  failed: "failed",
  forced: "answer requested",
  verify: "verified",
  compare: "compared",
};

function Legend({ page, colours }: { page: ProblemPage; colours: Colours }) {
  const kinds = new Set(page.lanes.flatMap((lane) => lane.marks.map((mark) => mark.kind)));
  return (
    <ul class="legend">
      {page.classes.slice(0, 6).map((one) => (
        <li key={one.key}>
          <svg width="12" height="12" aria-hidden="true">
            <rect class={colours.of(one.key)} width="12" height="12" rx="2" />
          </svg>
          {one.text.length > 24 ? `${one.text.slice(0, 23)}…` : one.text}
        </li>
      ))}
      {page.vote.length > 0 && (
        <li>
          <svg width="18" height="12" aria-hidden="true" class="vote">
            <path d="M0 6H18" class="certainty" />
          </svg>
          P(the leader stays ahead)
        </li>
      )}
      {Object.keys(KINDS).filter((kind) => kinds.has(kind)).map((kind) => (
        <li key={kind}>
          <svg width="14" height="14" aria-hidden="true">
            <MarkShape mark={{ kind, at: 0, token: 0, text: "", answer: null }} x={7} y={7} thick={8} colours={colours} />
          </svg>
          {KINDS[kind]}
        </li>
      ))}
    </ul>
  );
}
