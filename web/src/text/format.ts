// Numbers and words as the pages show them.

import type { Estimate } from "../model";

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
export const NONE = "–";

export function count(n: number | null | undefined): string {
  return n === null || n === undefined ? NONE : whole.format(n);
}

/** 1,234 or 12.3 k, 4.56 M. */
export function short(n: number): string {
  if (Math.abs(n) < 10_000) return whole.format(n);
  for (const [unit, size] of [["k", 1e3], ["M", 1e6], ["G", 1e9], ["T", 1e12]] as const) {
    if (Math.abs(n) < 999.5 * size || unit === "T") return `${(n / size).toPrecision(3)} ${unit}`;
  }
  return whole.format(n);
}

export function percent(share: number | null | undefined, digits = 1): string {
  return share === null || share === undefined ? NONE : `${fixed(100 * share, digits)}%`;
}

/** A number with this many digits after the point, and a minus sign that is as wide as a plus. */
export function fixed(value: number, digits: number): string {
  return value.toFixed(digits).replace(/^-(?=.*[1-9])/, "−").replace(/^-/, "");
}

export function interval(estimate: Estimate, digits = 1): string {
  if (estimate.low === null || estimate.high === null) return "";
  return `${percent(estimate.low, digits)} to ${percent(estimate.high, digits)}`;
}

export function points(value: number): string {
  const text = fixed(100 * value, 1);
  return `${Number(text) > 0 ? "+" : ""}${text} points`;
}

export function duration(seconds: number): string {
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : whole.format(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
}

export function counted(n: number, noun: string): string {
  return `${count(n)} ${noun}${n === 1 ? "" : "s"}`;
}

/** Round places for the marks of an axis from `least` to `most`, at least `finest` apart. */
export function ticks(most: number, wanted: number, least = 0, finest = 0): number[] {
  if (most <= least) return [least];
  const raw = Math.max(finest, (most - least) / wanted);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((m) => m >= raw) ?? raw;
  const first = Math.ceil(least / step - 1e-9);
  return Array.from({ length: Math.floor(most / step + 1e-9) - first + 1 }, (_, i) => (first + i) * step);
}

/** 1, 2 and 5 times the powers of ten between two positive numbers; the powers alone where these are many. */
export function logTicks(least: number, most: number, wanted: number): number[] {
  const powers = Math.log10(most / least);
  const steps = powers * 3 <= wanted || powers < 2 ? [1, 2, 5] : [1];
  const first = Math.floor(Math.log10(least));
  const all = Array.from({ length: Math.ceil(powers) + 2 }, (_, i) => steps.map((m) => m * 10 ** (first + i))).flat();
  return all.filter((at) => at >= least * 0.999 && at <= most * 1.001);
}
