// The tree of a search: steps that continue others, attempts that improve on others, islands side by side.

import { useMemo } from "preact/hooks";
import type { TreeNode } from "../model";
import { count } from "../text/format";
import type { Colours } from "./colours";

const STEP = 132;
const ROW = 22;
const NOTE = 14; // characters of a note that are drawn
const LETTER = 6.3; // pixels: more than a letter of a label is wide

interface Placed {
  node: TreeNode;
  x: number;
  y: number;
}

export function Tree({ nodes, colours, choose }: { nodes: TreeNode[]; colours: Colours; choose: (trace: number) => void }) {
  const step = useMemo(() => STEP + (nodes.some((node) => node.note) ? LETTER * NOTE : 0), [nodes]);
  const placed = useMemo(() => layout(nodes, step), [nodes, step]);
  const by = new Map(placed.map((one) => [one.node.trace, one]));
  const width = Math.max(...placed.map((p) => p.x)) + step;
  const height = Math.max(...placed.map((p) => p.y)) + ROW;
  const bands = groups(placed);
  return (
    <div class="tree" tabindex={0} role="region" aria-label="Tree of the search">
      <svg width={width} height={height} role="group" aria-label={`A tree of ${nodes.length} traces`}>
        {bands.map((band) => (
          <g key={band.name} class="band">
            <rect x={0} y={band.top} width={width} height={band.bottom - band.top} />
            <text x={6} y={band.top + 14}>{band.name}</text>
          </g>
        ))}
        {placed.flatMap(({ node, x, y }) =>
          node.parents.map((parent, i) => {
            const from = by.get(parent);
            return from ? (
              <path
                key={`${node.trace} ${parent}`}
                class={i ? "edge other" : "edge"}
                d={edge(from.x + 15 + LETTER * label(from.node).length, from.y, x - 10, y)}
              />
            ) : null;
          }),
        )}
        {placed.map(({ node, x, y }) => (
          <g
            key={node.trace}
            class={`node ${node.finish}`}
            role="button"
            tabindex={0}
            aria-label={`Trace ${node.trace}, ${node.note || `score ${node.score ?? "unknown"}`}, ${node.answer ?? "no answer"}, ${count(node.tokens)} tokens`}
            onClick={() => choose(node.trace)}
            onKeyDown={(event) => event.key === "Enter" && choose(node.trace)}
          >
            <title>{`trace ${node.trace}${node.group ? `, ${node.group}` : ""}\n${node.text}`}</title>
            <circle class={colours.of(node.key)} cx={x} cy={y} r={4 + 4 * (node.score ?? 0.4)} />
            <text x={x + 11} y={y + 4}>
              {node.trace}
              {node.score !== null && <tspan class="score"> {node.score.toFixed(2)}</tspan>}
              {node.note && <tspan> {node.note.slice(0, NOTE)}</tspan>}
              {node.answer !== null && <tspan class="answer"> {node.answer.slice(0, 8)}</tspan>}
            </text>
          </g>
        ))}
      </svg>
    </div>
  );
}

/** What stands beside a node. */
function label(node: TreeNode): string {
  const parts = [node.trace, node.score?.toFixed(2), node.note.slice(0, NOTE), node.answer?.slice(0, 8)];
  return parts.filter((part) => part !== undefined && part !== "").join(" ");
}

/** A curve from the end of a parent's label to its child; straight down where the child is not to the right of it. */
function edge(fromX: number, fromY: number, x: number, y: number): string {
  const start = Math.min(fromX, x - 8);
  const middle = (start + x) / 2;
  return `M${start} ${fromY}C${middle} ${fromY} ${middle} ${y} ${x} ${y}`;
}

/** Each node right of its parents, its first children below each other; groups below each other. */
function layout(nodes: TreeNode[], step: number): Placed[] {
  const children = new Map<number, TreeNode[]>();
  const roots: TreeNode[] = [];
  for (const node of nodes) {
    const parent = node.parents[0];
    if (parent === undefined) roots.push(node);
    else children.set(parent, [...(children.get(parent) ?? []), node]);
  }
  const first = new Map<string, number>();
  nodes.forEach((node, i) => first.has(node.group) || first.set(node.group, i));
  roots.sort((a, b) => first.get(a.group)! - first.get(b.group)! || a.trace - b.trace);
  const isGrouped = nodes.some((node) => node.group);
  const placed: Placed[] = [];
  const seen = new Set<number>();
  let row = 0;
  let group = "";
  const visit = (node: TreeNode, depth: number) => {
    if (seen.has(node.trace)) return;
    seen.add(node.trace);
    const below = children.get(node.trace) ?? [];
    const one = { node, x: 24 + depth * step + (isGrouped ? 70 : 0), y: 0 };
    placed.push(one);
    const start = row;
    for (const child of below) visit(child, depth + 1);
    if (row === start) row++;
    one.y = 14 + ((start + row - 1) / 2) * ROW;
  };
  for (const root of roots) {
    if (root.group !== group && row) row += 0.6;
    group = root.group;
    visit(root, 0);
  }
  return placed;
}

function groups(placed: Placed[]): { name: string; top: number; bottom: number }[] {
  const bands = new Map<string, { name: string; top: number; bottom: number }>();
  for (const { node, y } of placed) {
    if (!node.group || node.parents.length) continue; // a child may have moved to another island
    const band = bands.get(node.group) ?? { name: node.group, top: y - 12, bottom: y + 12 };
    bands.set(node.group, { ...band, top: Math.min(band.top, y - 12), bottom: Math.max(band.bottom, y + 12) });
  }
  return [...bands.values()];
}
