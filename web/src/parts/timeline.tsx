// The problems in the order of completion: outcomes as bars over tokens, the accuracy so far as a line.

import type { Step } from "../model";
import { count, percent, short, ticks } from "../text/format";
import { useWidth } from "./common";

const HEIGHT = 150;
const LEFT = 40;
const BOTTOM = 22;

export function Timeline({ steps, hasReferences }: { steps: Step[]; hasReferences: boolean }) {
  const [place, width] = useWidth<HTMLDivElement>();
  const most = steps.at(-1)?.n_tokens ?? 0;
  if (!most) return <p class="dim">{steps.length ? "No token was generated." : "Nothing is done yet."}</p>;
  const x = (tokens: number) => LEFT + (tokens / most) * Math.max(20, width - LEFT - 12);
  const y = (share: number) => 8 + (1 - share) * (HEIGHT - BOTTOM - 8);
  let [from, right, done] = [0, 0, 0];
  const line: string[] = [];
  const bars = steps.map((step) => {
    const n = step.n_right + step.n_wrong + step.n_other || 1;
    const [x0, x1] = [x(from), x(step.n_tokens)];
    from = step.n_tokens;
    right += step.n_right;
    done += n;
    line.push(`${line.length ? "L" : "M"}${x1} ${y(right / done)}`);
    const gap = x1 - x0 > 3 ? 1 : 0;
    let base = 0;
    const parts = [
      ["right", step.n_right],
      ["wrong", step.n_wrong],
      ["other", step.n_other],
    ] as const;
    return (
      <g key={step.n_done}>
        <title>{`up to problem ${count(step.n_done)}, ${short(step.n_tokens)} tokens: ${step.n_right} right, ${step.n_wrong} wrong, ${step.n_other} others; ${step.n_failed_attempts} attempts failed, ${step.n_dropped} dropped`}</title>
        {parts.map(([name, k]) => {
          base += k / n;
          return <rect key={name} class={`part ${name}`} x={x0} width={Math.max(0.5, x1 - x0 - gap)} y={y(base)} height={(k / n) * (HEIGHT - BOTTOM - 8)} />;
        })}
        {step.n_failed_attempts > 0 && <path class="mark failed" d={`M${(x0 + x1) / 2} 1l3.5 6h-7z`} />}
      </g>
    );
  });
  return (
    <div ref={place} class="timeline">
      <svg width={width} height={HEIGHT} role="img" aria-label={`Outcomes over tokens; in the end ${percent(right / done)} are right`}>
        {bars}
        {hasReferences && <path d={line.join("")} class="halo" />}
        {hasReferences && <path d={line.join("")} class="certainty" />}
        {[0, 0.5, 1].map((share) => (
          <text key={share} class="tick" x={LEFT - 6} y={y(share) + 4} text-anchor="end">
            {percent(share, 0)}
          </text>
        ))}
        {ticks(most, Math.max(2, width / 110), 0, 1).map((at) => (
          <text key={at} class="tick" x={x(at)} y={HEIGHT - 6} text-anchor="middle">
            {short(at)}
          </text>
        ))}
      </svg>
      <ul class="legend">
        <li><svg width="12" height="12" aria-hidden="true"><rect class="part right" width="12" height="12" rx="2" /></svg>right</li>
        <li><svg width="12" height="12" aria-hidden="true"><rect class="part wrong" width="12" height="12" rx="2" /></svg>wrong</li>
        <li><svg width="12" height="12" aria-hidden="true"><rect class="part other" width="12" height="12" rx="2" /></svg>others</li>
        {hasReferences && <li><svg width="18" height="12" aria-hidden="true"><path d="M0 6H18" class="certainty" /></svg>right so far</li>}
        <li class="dim">over output tokens</li>
      </ul>
    </div>
  );
}
