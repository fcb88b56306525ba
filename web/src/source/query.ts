// Filters and sorts the columns of a job's problems.

import type { ProblemTable } from "../model";
import type { Page, Query, Row } from "./source";

/** Filters beyond the outcome, each with what it lists. The server of `leadline view` has the same. */
export const VIEWS: Record<string, { text: string; rule: (t: ProblemTable, i: number) => boolean }> = {
  dropped: { text: "attempts were dropped", rule: (t, i) => t.n_dropped[i]! > 0 },
  "other vote": {
    text: "the vote would differ without drops",
    rule: (t, i) => t.without_drops[i] === "other",
  },
  "pruning error": {
    text: "a right attempt was dropped, the vote is wrong",
    rule: (t, i) => t.pruning_error[i]!,
  },
  unread: { text: "lost to reading", rule: (t, i) => t.lost_to_reading[i]! },
  "cut off": { text: "lost to the length limit", rule: (t, i) => t.lost_to_length[i]! },
  tied: { text: "the vote was tied", rule: (t, i) => t.tied[i]! },
  failures: { text: "attempts failed", rule: (t, i) => t.n_failed[i]! > 0 },
  split: { text: "a right answer was outvoted", rule: (t, i) => t.outvoted[i]! },
};

/** A job's columns with what is derived from them once, and the last query's order. */
export class Columns {
  private readonly texts: string[];
  private readonly counted: Pick<Page, "outcomes" | "views" | "tags">;
  private key = "";
  private found: number[] = [];

  constructor(readonly table: ProblemTable) {
    this.texts = table.id.map((id, i) =>
      [id, table.question[i], table.answer[i] ?? "", table.reference[i] ?? ""].join("\n").toLowerCase(),
    );
    this.counted = { outcomes: counts(table.outcome), views: viewCounts(table), tags: tagValues(table) };
  }

  page(query: Query): Page {
    const found = this.order(query);
    const rows = found.slice(query.from, query.to).map((i) => this.row(i));
    return { rows, n: found.length, n_all: this.table.id.length, ...this.counted };
  }

  /** The ids around a problem in the last order, or in that of the file if it is not in that. */
  neighbours(id: string): [string | null, string | null] {
    const { table } = this;
    const all = this.found.length ? this.found : table.id.map((_, i) => i);
    const at = all.findIndex((i) => table.id[i] === id);
    const around = (step: number) => (at < 0 ? undefined : all[at + step]);
    const name = (i: number | undefined) => (i === undefined ? null : table.id[i]!);
    return [name(around(-1)), name(around(1))];
  }

  place(id: string): number {
    return this.table.id.indexOf(id);
  }

  private order(query: Query): number[] {
    const key = JSON.stringify([query.text, query.outcomes, query.views, query.tags, query.sort, query.descending]);
    if (key !== this.key) {
      this.found = this.sorted(this.matching(query), query);
      this.key = key;
    }
    return this.found;
  }

  private matching(query: Query): number[] {
    const { table, texts } = this;
    const text = query.text.trim().toLowerCase();
    const rules = query.views.map((name) => VIEWS[name]?.rule).filter((rule) => rule !== undefined);
    const outcomes = new Set(query.outcomes);
    const found: number[] = [];
    for (let i = 0; i < table.id.length; i++) {
      if (outcomes.size && !outcomes.has(table.outcome[i]!)) continue;
      if (text && !texts[i]!.includes(text)) continue;
      if (!rules.every((rule) => rule(table, i))) continue;
      if (query.tags.every(([name, value]) => table.tags[name]?.[i] === value)) found.push(i);
    }
    return found;
  }

  private sorted(found: number[], query: Query): number[] {
    if (!query.sort) return query.descending ? found.reverse() : found;
    const column = this.column(query.sort);
    const sign = query.descending ? -1 : 1;
    return found.sort((a, b) => {
      const [x, y] = [column[a] ?? null, column[b] ?? null];
      if (x === null || y === null) return x === y ? a - b : x === null ? 1 : -1; // without a value: last
      return sign * compared(x, y) || a - b;
    });
  }

  private column(key: string): (string | number | boolean | null)[] {
    if (key.startsWith("tag:")) return this.table.tags[key.slice(4)] ?? [];
    return this.table[key as "id"] ?? [];
  }

  private row(i: number): Row {
    const t = this.table;
    return {
      id: t.id[i]!,
      outcome: t.outcome[i]!,
      question: t.question[i]!,
      answer: t.answer[i]!,
      reference: t.reference[i]!,
      tokens: t.tokens[i]!,
      attempts: t.attempts[i]!,
      n_right: t.n_right[i]!,
      agreement: t.agreement[i]!,
      depth: t.depth[i]!,
      n_dropped: t.n_dropped[i]!,
      tied: t.tied[i]!,
    };
  }
}

function compared(x: string | number | boolean, y: string | number | boolean): number {
  if (typeof x === "string" && typeof y === "string") {
    return x.localeCompare(y, "en", { numeric: true });
  }
  return Number(x) - Number(y);
}

function counts(values: string[]): Record<string, number> {
  const found: Record<string, number> = {};
  for (const value of values) found[value] = (found[value] ?? 0) + 1;
  return found;
}

function viewCounts(table: ProblemTable): Record<string, number> {
  const names = Object.keys(VIEWS);
  return Object.fromEntries(
    names.map((name) => [name, table.id.reduce((n, _, i) => n + Number(VIEWS[name]!.rule(table, i)), 0)]),
  );
}

function tagValues(table: ProblemTable): Record<string, string[]> {
  const names = Object.keys(table.tags).filter((name) => new Set(table.tags[name]).size <= 24);
  return Object.fromEntries(
    names.map((name) => {
      const values = [...new Set(table.tags[name])].filter((value) => value !== null);
      return [name, values.sort((a, b) => a.localeCompare(b, "en", { numeric: true }))];
    }),
  );
}
