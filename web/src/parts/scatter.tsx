// Points over two axes, with intervals where they are known.

import { logTicks, ticks } from "../text/format";
import { useWidth } from "./common";

export interface Point {
  x: number;
  y: number;
  xs?: [number, number];
  ys?: [number, number];
  class: string;
  text: string;
  label?: string;
  href?: string;
}

interface Props {
  points: Point[];
  name: string;
  xName: string;
  yName: string;
  xText: (value: number) => string;
  yText: (value: number) => string;
  yRange?: [number, number];
  isSquare?: boolean; // the same scale on both axes, with the diagonal
  isLog?: boolean; // the first axis
  line?: [number, number][];
}

const [LEFT, BOTTOM, TOP] = [52, 40, 18];
const [LETTER, LINE] = [6.4, 14]; // pixels: more than a letter of a label is wide and high

export function Scatter({ points, name, xName, yName, xText, yText, yRange, isSquare = false, isLog = false, line = [] }: Props) {
  const [place, width] = useWidth<HTMLDivElement>();
  const height = isSquare ? Math.min(width, 420) : 340;
  const hasLabels = width > 520;
  const right = hasLabels && points.some((p) => p.label) ? 60 : 16;
  const plain = points.filter((p) => Number.isFinite(p.x) && Number.isFinite(p.y) && (!isLog || p.x > 0));
  const xMost = Math.max(1e-9, ...plain.map((p) => p.xs?.[1] ?? p.x)) * 1.03;
  const yMost = yRange?.[1] ?? Math.max(1e-9, ...plain.map((p) => p.ys?.[1] ?? p.y)) * 1.03;
  const both = Math.max(xMost, yMost);
  const [xEnd, yEnd, yLeast] = isSquare ? [both, both, 0] : [xMost, yMost, yRange?.[0] ?? 0];
  const xLeast = isLog ? Math.min(xEnd / 10, ...plain.map((p) => p.x)) * 0.85 : 0;
  const along = (v: number) => (isLog ? Math.log(v / xLeast) / Math.log(xEnd / xLeast) : v / xEnd);
  const x = (value: number) => LEFT + along(value) * Math.max(40, width - LEFT - right);
  const y = (value: number) => TOP + (1 - (value - yLeast) / (yEnd - yLeast || 1)) * (height - TOP - BOTTOM);
  const nTicks = Math.max(2, width / 130);
  const labels = hasLabels ? placedLabels(plain.map((p) => ({ x: x(p.x), y: y(p.y), text: p.label ?? "" })), width) : [];
  return (
    <div ref={place} class="scatter">
      <svg width={width} height={height} role="group" aria-label={name}>
        <g class="axis" aria-hidden="true">
          {(isLog ? logTicks(xLeast, xEnd, nTicks) : ticks(xEnd, nTicks)).map((v) => (
            <g key={v}>
              <line x1={x(v)} x2={x(v)} y1={TOP} y2={height - BOTTOM} />
              <text x={x(v)} y={height - BOTTOM + 15} text-anchor="middle">{xText(v)}</text>
            </g>
          ))}
          {ticks(yEnd, 5, yLeast).map((v) => (
            <g key={v}>
              <line x1={LEFT} x2={x(xEnd)} y1={y(v)} y2={y(v)} />
              <text x={LEFT - 6} y={y(v) + 4} text-anchor="end">{yText(v)}</text>
            </g>
          ))}
          <text x={(LEFT + x(xEnd)) / 2} y={height - 4} text-anchor="middle">{xName}</text>
          <text x={LEFT} y={TOP - 6} text-anchor="start">{yName}</text>
          {isSquare && <line class="diagonal" x1={x(0)} y1={y(0)} x2={x(both)} y2={y(both)} />}
        </g>
        {line.length > 1 && <path class="frontier" d={line.map(([a, b], i) => `${i ? "L" : "M"}${x(a)} ${y(b)}`).join("")} />}
        {plain.map((p, i) => {
          const shape = (
            <g class={`point ${p.class}`}>
              <title>{p.text}</title>
              {p.ys && <line x1={x(p.x)} x2={x(p.x)} y1={y(p.ys[0])} y2={y(p.ys[1])} />}
              {p.xs && <line x1={x(p.xs[0])} x2={x(p.xs[1])} y1={y(p.y)} y2={y(p.y)} />}
              <circle cx={x(p.x)} cy={y(p.y)} r={isSquare ? 4 : 5} />
            </g>
          );
          return p.href ? <a key={i} href={p.href} aria-label={p.text}>{shape}</a> : <g key={i}>{shape}</g>;
        })}
        {labels.map((one) => <text key={one.text} class="label" x={one.x} y={one.y} aria-hidden="true">{one.text}</text>)}
      </svg>
    </div>
  );
}

interface Label {
  x: number;
  y: number;
  text: string;
}

/** The labels beside their points, without those for which there is no room. */
function placedLabels(points: Label[], width: number): Label[] {
  const taken: [number, number, number, number][] = points.map((p) => [p.x - 6, p.x + 6, p.y - 6, p.y + 6]);
  const found: Label[] = [];
  for (const { x, y, text } of points) {
    const long = text.length * LETTER;
    if (!text) continue;
    const places = [[x + 9, y - 7], [x + 9, y + 17], [x - 9 - long, y - 7], [x - 9 - long, y + 17]] as const;
    const free = places.find(([left, base]) => {
      const [right, top] = [left + long, base - LINE + 3];
      return left > LEFT && right < width && !taken.some(([a, b, c, d]) => left < b && a < right && top < d && c < base + 2);
    });
    if (!free) continue;
    taken.push([free[0], free[0] + long, free[1] - LINE + 3, free[1] + 2]);
    found.push({ x: free[0], y: free[1], text });
  }
  return found;
}
