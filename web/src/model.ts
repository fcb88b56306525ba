// The values of orchestrator/report/page, as JSON has them. Names are the same on both sides.

export interface Estimate {
  value: number;
  low: number | null;
  high: number | null;
  n: number;
}

export interface Usage {
  prompt_tokens: number;
  cached_tokens: number;
  output_tokens: number;
  layer_tokens: number;
  seconds: number;
  reasoning_tokens: number;
}

export interface Report {
  n_results: number;
  n_by_status: Record<string, number>;
  n_without_reference: number;
  n_unreadable: number;
  accuracy: Estimate | null;
  n_failed_scored: number;
  usage: Record<string, Usage>;
  total: Usage;
  savings: { traces: Estimate; tokens: Estimate } | null;
  n_traces: number;
  attempts: Record<string, number>;
  n_tied: number;
  n_scattered: number;
  n_stopped_by: Record<string, number>;
}

export interface Step {
  n_done: number;
  n_tokens: number;
  n_right: number;
  n_wrong: number;
  n_other: number;
  n_failed_attempts: number;
  n_dropped: number;
}

export interface Overview {
  name: string;
  directory: string;
  strategy: string;
  selector: string;
  models: string[];
  settings: string;
  changed: string[];
  n_problems: number;
  n_traces: number;
  n_tokens: number;
  n_by_outcome: Record<string, number>;
  report: Report;
  steps: Step[];
  failures: { text: string; n_attempts: number; n_problems: number; problem: string }[];
  losses: { cause: string; n: number; of: number; noun: string; meaning: string; remedy: string }[];
  pruning: {
    n_problems: number;
    n_dropped: number;
    n_cancelled: number;
    n_errors: number;
    n_other: number;
  } | null;
  n_lost_to_reading: number;
  n_lost_to_length: number;
  n_outvoted: number;
  tags: { tag: string; value: string; accuracy: Estimate }[];
  spent: { n_requests: number; seconds: number; n_retries: number; retry_reason: string };
  has_depths: boolean;
  notes: string[];
}

/** A column for each field of a job's problems. */
export interface ProblemTable {
  id: string[];
  outcome: string[];
  question: string[];
  answer: (string | null)[];
  reference: (string | null)[];
  tokens: number[];
  attempts: number[];
  n_right: (number | null)[];
  agreement: (number | null)[];
  depth: (number | null)[];
  n_dropped: number[];
  n_cancelled: number[];
  n_failed: number[];
  n_unread: number[];
  n_cut_off: number[];
  seconds: number[];
  tied: boolean[];
  lost_to_reading: boolean[];
  lost_to_length: boolean[];
  without_drops: string[];
  pruning_error: boolean[];
  outvoted: boolean[];
  tags: Record<string, (string | null)[]>;
}

export interface Text {
  text: string;
  n_left_out: number;
  end: string;
}

export interface AnswerClass {
  key: string;
  text: string;
  right: boolean | null;
  weight: number;
  share: number;
  attempts: number[];
  unused: number[];
}

export interface Verdict {
  verifier: string;
  score: number;
  steps: number[];
  note: string;
}

export interface Attempt {
  attempt: number;
  state: string;
  key: string | null;
  answer: string | null;
  right: boolean | null;
  finish: string;
  model: string;
  depth: number | null;
  tokens: number;
  thinking_tokens: number;
  seconds: number;
  thinking: Text;
  reply: Text;
  metrics: Record<string, number>;
  verdicts: Verdict[];
  traces: number[];
  common: number | null;
  strip: { tokens: number[]; metrics: Record<string, (number | null)[]> } | null;
  error: string;
  note: string;
}

export interface Mark {
  kind: string;
  at: number;
  token: number;
  text: string;
  answer: string | null;
}

export interface Lane {
  attempt: number;
  segments: { trace: number; start: number; end: number }[];
  marks: Mark[];
}

export interface VotePoint {
  at: number;
  weights: Record<string, number>;
  certainty: number;
}

export interface TreeNode {
  trace: number;
  parents: number[];
  score: number | null;
  key: string | null;
  answer: string | null;
  finish: string;
  tokens: number;
  text: string;
  group: string;
  note: string;
}

export interface ProblemPage {
  id: string;
  outcome: string;
  question: Text;
  domain: string;
  reference: string | null;
  accepted: string[];
  tags: string;
  answer: string | null;
  tied: boolean;
  stopped_by: string;
  error: string;
  note: string;
  selector: string;
  strategy: string;
  usage: Record<string, Usage>;
  seconds: number;
  full_tokens: number | null;
  classes: AnswerClass[];
  attempts: Attempt[];
  others: {
    trace: number;
    purpose: string;
    about: number[];
    finish: string;
    answer: string | null;
    tokens: number;
    text: Text;
    error: string;
  }[];
  n_others: number;
  lanes: Lane[];
  vote: VotePoint[];
  groups: { name: string; founder: number; prefix: Text; members: { trace: number; text: string }[] }[];
  tree: TreeNode[];
  without_drops: {
    answer: string | null;
    right: boolean | null;
    changed: boolean;
    assumed: Record<string, string>;
    n_unknown: number;
  } | null;
  replay_note: string;
  n_left_out: number;
}

export interface Setting {
  depth: number;
  width: number;
  thinking: number;
  accuracy: Estimate;
  below_best: Estimate;
  layer_tokens: number;
  seconds: number;
  on_front: boolean;
}

export interface SweepPage {
  name: string;
  surface: {
    depths: number[];
    thinking: number[];
    widths: number[];
    selector: string;
    unit: string;
    n_problems: number;
    n_left_out: number;
    settings: Setting[];
    levels: { depth: number; thinking: number; accuracy: number; weight: number }[];
    best: number;
    cheapest: number;
  };
  efforts: { job: number; chances: Record<string, number[]> }[];
}

export interface Difference {
  n: number;
  first: Estimate;
  second: Estimate;
  accuracy: Estimate;
  first_tokens: number;
  second_tokens: number;
  tokens: Estimate;
}

export interface ComparisonPage {
  first: number;
  second: number;
  comparison: {
    difference: Difference;
    tags: { tag: string; value: string; difference: Difference }[];
    n_both_right: number;
    n_both_wrong: number;
    n_other_answer: number;
    settings: string[];
    notes: string[];
  };
  problems: {
    id: string;
    right: [boolean, boolean];
    answers: [string | null, string | null];
    tokens: [number, number];
  }[];
}

export interface ReplayPage {
  name: string;
  points: {
    source: string;
    strategy: string;
    selector: string;
    accuracy: Estimate;
    tokens: Estimate;
    path_tokens: number;
    n_attempts: number;
    pruned_tokens: number;
    probe_tokens: number;
    pruning_errors: number;
    full_tokens: number | null;
    full_accuracy: number | null;
  }[];
}

/** A job as a report lists it; `command` shows it in full. */
export interface JobEntry {
  overview: Overview;
  sweep: number | null;
  command: string;
}

/** How current served pages are: why they are not, or ""; whether a job runs, null if unknown. */
export interface ServedState {
  warning: string;
  is_running: boolean | null;
}

/** All but the problems. `cut` is the most characters of a text that are here (0: all). */
export interface Index {
  title: string;
  jobs: JobEntry[];
  sweeps: SweepPage[];
  comparisons: ComparisonPage[];
  replays: ReplayPage[];
  notes: string[];
  cut: number;
  n_left_out: number;
  state?: ServedState; // only where it is served
}
