// The values of a report's own file: chunks of gzip in base64, inflated when they are needed.

import type { Index, JobEntry, ProblemPage, ProblemTable } from "../model";
import { Columns } from "./query";
import type { Page, Query, Source } from "./source";

const KEPT = 6; // chunks of problems that stay inflated

type StoredIndex = Index & { jobs: (JobEntry & { starts: number[] })[] };

export class Embedded implements Source {
  private stored?: Promise<StoredIndex>;
  private readonly columns = new Map<number, Promise<Columns>>();
  private readonly chunks = new Map<string, Promise<ProblemPage[]>>();

  index(): Promise<StoredIndex> {
    return (this.stored ??= inflated<StoredIndex>("index"));
  }

  async problems(job: number, query: Query): Promise<Page> {
    return (await this.table(job)).page(query);
  }

  async problem(job: number, id: string): Promise<ProblemPage> {
    const index = await this.index();
    const place = (await this.table(job)).place(id);
    const starts = index.jobs[job]?.starts ?? [];
    const chunk = starts.findLastIndex((start) => start <= place);
    if (place < 0 || chunk < 0) throw new Error(`this report has no problem ${JSON.stringify(id)}`);
    return (await this.chunk(`p${job}.${chunk}`))[place - starts[chunk]!]!;
  }

  async neighbours(job: number, id: string): Promise<[string | null, string | null]> {
    return (await this.table(job)).neighbours(id);
  }

  events(): () => void {
    return () => undefined; // a file does not change
  }

  private table(job: number): Promise<Columns> {
    let found = this.columns.get(job);
    if (!found) {
      found = inflated<ProblemTable>(`t${job}`).then((table) => new Columns(table));
      this.columns.set(job, found);
    }
    return found;
  }

  private chunk(name: string): Promise<ProblemPage[]> {
    const found = this.chunks.get(name) ?? inflated<ProblemPage[]>(name);
    this.chunks.delete(name); // the last one used is the last one in the map
    this.chunks.set(name, found);
    if (this.chunks.size > KEPT) this.chunks.delete(this.chunks.keys().next().value!);
    return found;
  }
}

async function inflated<T>(name: string): Promise<T> {
  const block = document.getElementById(name);
  if (!block) throw new Error(`this report is damaged: its part ${name} is missing`);
  const bytes = Uint8Array.from(atob(block.textContent ?? ""), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text()) as T;
}
