// The values that `leadline view` serves, below the page's own address, with its token.

import type { Index, ProblemPage } from "../model";
import type { Page, Query, Source } from "./source";

export class Http implements Source {
  private last = "{}"; // the query of the table as it was shown last

  constructor(private readonly token: string) {}

  index(): Promise<Index> {
    return this.get("api/index", {});
  }

  problems(job: number, query: Query): Promise<Page> {
    this.last = JSON.stringify({ ...query, from: 0, to: 0 });
    return this.get("api/problems", { job: String(job), query: JSON.stringify(query) });
  }

  problem(job: number, id: string): Promise<ProblemPage> {
    return this.get("api/problem", { job: String(job), id });
  }

  neighbours(job: number, id: string): Promise<[string | null, string | null]> {
    return this.get("api/neighbours", { job: String(job), id, query: this.last });
  }

  events(changed: () => void): () => void {
    const stream = new EventSource(this.address("api/events", {}));
    stream.onmessage = changed;
    stream.onerror = changed; // reading fails then, which tells the reader
    stream.onopen = changed;
    return () => stream.close();
  }

  private async get<T>(path: string, parameters: Record<string, string>): Promise<T> {
    const request = fetch(this.address(path, parameters), { headers: { accept: "application/json" } });
    const reply = await request.catch(() => {
      throw new Error("leadline view does not answer");
    });
    if (!reply.ok) throw new Error((await reply.text()) || reply.statusText);
    return (await reply.json()) as T;
  }

  private address(path: string, parameters: Record<string, string>): string {
    return `${path}?${new URLSearchParams({ ...parameters, token: this.token }).toString()}`;
  }
}
