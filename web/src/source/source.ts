// Where the pages get their values: a report has them in its file, `leadline view` serves them.

import type { Index, ProblemPage, ProblemTable } from "../model";

export type SortKey = Exclude<keyof ProblemTable, "tags"> | `tag:${string}` | "";

/** Which problems of a job, in which order, and which of these rows. */
export interface Query {
  text: string; // in the id, question, answer or reference
  outcomes: string[]; // any of them; empty: all
  views: string[]; // all of them: names in `VIEWS`
  tags: [string, string][]; // all of them
  sort: SortKey; // "": as in the problem file
  descending: boolean;
  from: number;
  to: number;
}

export interface Row {
  id: string;
  outcome: string;
  question: string;
  answer: string | null;
  reference: string | null;
  tokens: number;
  attempts: number;
  n_right: number | null;
  agreement: number | null;
  depth: number | null;
  n_dropped: number;
  tied: boolean;
}

/** The rows `from` to `to` of the `n` problems that match, of `n_all`, and what can be chosen. */
export interface Page {
  rows: Row[];
  n: number;
  n_all: number;
  outcomes: Record<string, number>; // of all problems of the job
  views: Record<string, number>;
  tags: Record<string, string[]>; // the values of each tag
}

export interface Source {
  index(): Promise<Index>;
  problems(job: number, query: Query): Promise<Page>;
  /** The page of one problem; rejects with an Error that a reader understands. */
  problem(job: number, id: string): Promise<ProblemPage>;
  /** The ids before and after a problem in the order of the last query. */
  neighbours(job: number, id: string): Promise<[string | null, string | null]>;
  /** Calls `changed` whenever there is something new; returns how to stop that. */
  events(changed: () => void): () => void;
}

export const ANY: Query = {
  text: "",
  outcomes: [],
  views: [],
  tags: [],
  sort: "",
  descending: false,
  from: 0,
  to: 0,
};
