// Small parts that several pages show.

import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { Estimate, Text } from "../model";
import { count, interval, percent } from "../text/format";
import { Rich } from "../text/math";

const WORDS: Record<string, string> = { right: "✓", wrong: "✗", undecided: "✗", failed: "!", invalid: "!" };

export function Outcome({ outcome, tied = false }: { outcome: string; tied?: boolean }) {
  return (
    <span class={`pill ${outcome}`}>
      <span aria-hidden="true">{WORDS[outcome] ?? "·"}</span> {outcome}
      {tied && ", tied"}
    </span>
  );
}

export function Right({ right }: { right: boolean | null }) {
  if (right === null) return null;
  return right ? <span class="ok">✓ right</span> : <span class="bad">✗ wrong</span>;
}

export function Panel(props: { title: string; note?: ComponentChildren; children: ComponentChildren; class?: string; id?: string }) {
  return (
    <section class={`panel ${props.class ?? ""}`} aria-label={props.title} id={props.id}>
      <h2>
        {props.title}
        {props.note && <small>{props.note}</small>}
      </h2>
      {props.children}
    </section>
  );
}

/** A number with what it is, and what makes it precise. */
export function Figure(props: { name: string; value: ComponentChildren; note?: ComponentChildren; href?: string }) {
  const inner = (
    <>
      <span class="name">{props.name}</span>
      <span class="value">{props.value}</span>
      <span class="note">{props.note}</span>
    </>
  );
  return props.href ? <a class="figure" href={props.href}>{inner}</a> : <div class="figure">{inner}</div>;
}

/** An estimate on a line from 0 to 1, with its interval. */
export function Whisker({ estimate, low = 0, high = 1 }: { estimate: Estimate; low?: number; high?: number }) {
  const x = (value: number) => `${(100 * (Math.min(high, Math.max(low, value)) - low)) / (high - low || 1)}%`;
  const [from, to] = [estimate.low ?? estimate.value, estimate.high ?? estimate.value];
  return (
    <svg class="whisker" role="img" aria-label={`${percent(estimate.value)} (${interval(estimate) || "no interval"})`}>
      <line x1="0" x2="100%" y1="50%" y2="50%" class="base" />
      <line x1={x(from)} x2={x(to)} y1="50%" y2="50%" class="range" />
      <circle cx={x(estimate.value)} cy="50%" r="4" />
    </svg>
  );
}

/** A text that may have been cut, with its formulas. */
export function Cut({ text, find = "", math = true }: { text: Text; find?: string; math?: boolean }) {
  return (
    <>
      <Rich text={text.text} find={find} math={math} />
      {text.n_left_out > 0 && (
        <>
          <span class="cut"> … {count(text.n_left_out)} characters are not in this file … </span>
          <Rich text={text.end} find={find} math={math} />
        </>
      )}
    </>
  );
}

/** A value once it is there; while waiting, and after an error, a line instead. */
export function useValue<T>(load: () => Promise<T>, keys: unknown[]): { value?: T; error?: string } {
  const [state, setState] = useState<{ value?: T; error?: string }>({});
  useEffect(() => {
    let isCurrent = true;
    load().then(
      (value) => isCurrent && setState({ value }),
      (error: unknown) => isCurrent && setState({ error: error instanceof Error ? error.message : String(error) }),
    );
    return () => {
      isCurrent = false;
    };
  }, keys);
  return state;
}

export function Waiting({ error }: { error?: string }) {
  return error ? <p class="bad" role="alert">{error}</p> : <p class="dim" aria-busy="true">reading …</p>;
}

/** The width of an element, kept up to date. */
export function useWidth<T extends HTMLElement>(): [{ current: T | null }, number] {
  const place = useRef<T>(null);
  const [width, setWidth] = useState(800);
  useEffect(() => {
    const node = place.current;
    if (!node) return;
    const observer = new ResizeObserver(() => setWidth(node.clientWidth));
    observer.observe(node);
    setWidth(node.clientWidth);
    return () => observer.disconnect();
  }, []);
  return [place, width];
}
