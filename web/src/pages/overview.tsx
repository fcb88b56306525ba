// The first page of a job: how well, at what cost, what was lost and where.

import type { JobEntry, Overview, Usage } from "../model";
import { Figure, Panel, Whisker } from "../parts/common";
import { Timeline } from "../parts/timeline";
import { link } from "../route";
import { count, counted, duration, interval, percent, short } from "../text/format";

const ORDER = ["right", "wrong", "undecided", "answered", "abstained", "failed", "invalid", "open"];

export function OverviewPage({ job, entry }: { job: number; entry: JobEntry }) {
  const one = entry.overview;
  return (
    <>
      <header class="title">
        <h1>{one.name}</h1>
        <p class="dim">
          <code>{one.strategy}</code> · vote by <code>{one.selector}</code> · {one.models.join(", ")} · <code>{one.directory}</code>
        </p>
      </header>
      <Headline job={job} one={one} />
      <Outcomes job={job} one={one} />
      <div class="columns">
        <Cost one={one} />
        <Panel title="In the order of completion" note="each bar is a part of the problems">
          <Timeline steps={one.steps} hasReferences={one.report.accuracy !== null} />
        </Panel>
        <Lost job={job} one={one} />
        <Failures job={job} one={one} />
        {one.tags.length > 0 && <Tags job={job} one={one} />}
        <Panel title="Settings" note={one.changed.length ? "what differs from the defaults" : "the defaults"}>
          <ul class="plain code">
            {one.changed.map((line) => (
              <li key={line}>{line}</li>
            ))}
          </ul>
          <details>
            <summary>the whole plan</summary>
            <pre tabindex={0}>{one.settings}</pre>
          </details>
        </Panel>
      </div>
      {one.notes.map((note) => (
        <p key={note} class="warn">
          {note}
        </p>
      ))}
    </>
  );
}

function Headline({ job, one }: { job: number; one: Overview }) {
  const { report, pruning } = one;
  const savings = report.savings?.tokens;
  return (
    <div class="figures">
      {report.accuracy ? (
        <Figure
          name="accuracy"
          value={percent(report.accuracy.value)}
          note={`95%: ${interval(report.accuracy)}, n = ${count(report.accuracy.n)}`}
        />
      ) : (
        <Figure name="accuracy" value="unknown" note={report.n_results ? "no reference answers" : "no problem is done yet"} />
      )}
      <Figure name="problems" value={count(one.n_problems)} note={counted(one.n_traces, "trace")} href={link([job, "problems"])} />
      <Figure name="output tokens" value={short(one.n_tokens)} note={perProblem(one)} />
      <Figure
        name="saved against full sampling"
        value={savings ? percent(savings.value) : "unknown"}
        note={savings ? `of tokens; 95%: ${interval(savings) || "none"}` : "the full cost is unknown"}
      />
      {pruning && (
        <Figure
          name="pruning errors"
          value={count(pruning.n_errors)}
          note={`of ${counted(pruning.n_problems, "problem")} with drops; another vote in ${count(pruning.n_other)}`}
          href={link([job, "problems"], { view: pruning.n_errors || !pruning.n_other ? "pruning error" : "other vote" })}
        />
      )}
      <Figure
        name="lost to reading"
        value={count(one.n_lost_to_reading)}
        note="not right, with attempts that ended without a readable answer"
        href={link([job, "problems"], { view: "unread" })}
      />
    </div>
  );
}

function perProblem(one: Overview): string {
  const n = one.report.n_results;
  return n ? `${short(Math.round(one.report.total.output_tokens / n))} a problem` : "no problem is done yet";
}

function Outcomes({ job, one }: { job: number; one: Overview }) {
  const found = ORDER.filter((outcome) => one.n_by_outcome[outcome]);
  return (
    <nav class="outcomes" aria-label="Problems by outcome">
      {found.map((outcome) => (
        <a
          key={outcome}
          class={outcome}
          href={link([job, "problems"], { outcome })}
          ref={(node) => node?.style.setProperty("flex-grow", String(one.n_by_outcome[outcome]))}
        >
          <b>{count(one.n_by_outcome[outcome])}</b> {outcome}
        </a>
      ))}
    </nav>
  );
}

const PURPOSES: Record<string, string> = {
  solve: "attempts that ended",
  pruned: "attempts that were dropped or cancelled",
  probe: "probes of running attempts",
  verify: "verification by models",
  compare: "comparison of prefixes",
  aggregate: "answers made from others",
};

function Cost({ one }: { one: Overview }) {
  const rows = Object.entries(one.report.usage).sort((a, b) => b[1].output_tokens - a[1].output_tokens);
  const total = one.report.total.output_tokens || 1;
  const hasLayers = one.report.total.layer_tokens > 0;
  const cells = (usage: Usage) => (
    <>
      <td class="num">{short(usage.output_tokens)}</td>
      <td class="num">{percent(usage.output_tokens / total)}</td>
      <td class="num wide">{short(usage.prompt_tokens)}</td>
      {hasLayers && <td class="num wide">{short(usage.layer_tokens)}</td>}
      <td class="num wide">{duration(usage.seconds)}</td>
    </>
  );
  return (
    <Panel title="Cost by purpose" note="tokens">
      <table>
        <thead>
          <tr>
            <th scope="col">purpose</th>
            <th scope="col" class="num">output</th>
            <th scope="col" class="num">share</th>
            <th scope="col" class="num wide">prompt</th>
            {hasLayers && <th scope="col" class="num wide">layer-tokens</th>}
            <th scope="col" class="num wide">engine time</th>
          </tr>
        </thead>
        <tbody>
          {rows.map(([name, usage]) => (
            <tr key={name}>
              <th scope="row">
                {name}
                <span class="dim wide"> {PURPOSES[name]}</span>
                <svg class="meter" aria-hidden="true">
                  <rect width={percent(usage.output_tokens / total)} height="3" />
                </svg>
              </th>
              {cells(usage)}
            </tr>
          ))}
          <tr class="total">
            <th scope="row">all</th>
            {cells(one.report.total)}
          </tr>
        </tbody>
      </table>
      {one.report.savings && (
        <p class="dim">
          Against full sampling of the same plan: {percent(one.report.savings.tokens.value)} of the tokens and{" "}
          {percent(one.report.savings.traces.value)} of the attempts were saved.
        </p>
      )}
    </Panel>
  );
}

function Lost({ job, one }: { job: number; one: Overview }) {
  const rows: [string, number, string][] = [
    ["a right answer was outvoted", one.n_outvoted, "split"],
    ["the vote was tied", one.report.n_tied, "tied"],
    ["not right, and attempts could not be read", one.n_lost_to_reading, "unread"],
    ["not right, and attempts were cut off before an answer", one.n_lost_to_length, "cut off"],
    ["a right attempt was dropped, and the vote is wrong", one.pruning?.n_errors ?? 0, "pruning error"],
    ["the vote would differ without drops", one.pruning?.n_other ?? 0, "other vote"],
  ];
  return (
    <Panel title="Where accuracy was lost">
      {one.losses.length > 0 && (
        <ul class="plain">
          {one.losses.map((loss) => (
            <li key={loss.cause}>
              <b>{loss.cause}</b>: {count(loss.n)} of {count(loss.of)} {loss.noun} {loss.meaning}. <span class="dim">Remedy: {loss.remedy}</span>
            </li>
          ))}
        </ul>
      )}
      <ul class="plain links">
        {rows
          .filter(([, n]) => n > 0)
          .map(([text, n, view]) => (
            <li key={view}>
              <a href={link([job, "problems"], { view })}>{text}</a>
              <span class="num"> {count(n)}</span>
            </li>
          ))}
      </ul>
      {one.report.n_results === 0 && <p class="dim">Nothing is done yet.</p>}
      {one.report.n_results > 0 && <p class="dim">
        Attempts:{" "}
        {Object.entries(one.report.attempts)
          .map(([state, n]) => `${count(n)} ${state}`)
          .join(" · ")}
        {Object.entries(one.report.n_stopped_by).map(([budget, n]) => ` · ${counted(n, "problem")} ended by budget.${budget}`)}
      </p>}
    </Panel>
  );
}

function Failures({ job, one }: { job: number; one: Overview }) {
  const { n_retries, retry_reason, n_requests } = one.spent;
  return (
    <Panel title="Failures and retries">
      {one.failures.length > 0 ? (
        <table>
          <thead>
            <tr>
              <th scope="col">error</th>
              <th scope="col" class="num">attempts</th>
              <th scope="col" class="num">problems</th>
            </tr>
          </thead>
          <tbody>
            {one.failures.slice(0, 12).map((kind) => (
              <tr key={kind.text}>
                <td class="wrap">
                  <a href={link([job, "problem", kind.problem])}>{kind.text.slice(0, 200)}</a>
                </td>
                <td class="num">{count(kind.n_attempts)}</td>
                <td class="num">{count(kind.n_problems)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      ) : (
        <p>Nothing failed for good.</p>
      )}
      <p class="dim">
        {n_retries
          ? `${counted(n_retries, "request")} of ${count(n_requests)} ${n_retries === 1 ? "was" : "were"} sent again; the last reason: ${retry_reason}`
          : "No request was sent again."}
      </p>
      {one.failures.length > 0 && <a href={link([job, "problems"], { view: "failures" })}>problems with failed attempts</a>}
    </Panel>
  );
}

function Tags({ job, one }: { job: number; one: Overview }) {
  const rows = [...one.tags].sort((a, b) => a.accuracy.value - b.accuracy.value || b.accuracy.n - a.accuracy.n);
  return (
    <Panel title="Accuracy by tag" note="the worst first">
      <table>
        <thead>
          <tr>
            <th scope="col">tag</th>
            <th scope="col" class="num">accuracy</th>
            <th scope="col" class="whiskers">95% interval</th>
            <th scope="col" class="num">n</th>
          </tr>
        </thead>
        <tbody>
          {rows.slice(0, 24).map((row) => (
            <tr key={`${row.tag} ${row.value}`}>
              <th scope="row">
                <a href={link([job, "problems"], { tag: `${row.tag}=${row.value}` })}>
                  {row.tag} = {row.value}
                </a>
              </th>
              <td class="num">{percent(row.accuracy.value)}</td>
              <td>
                <Whisker estimate={row.accuracy} />
              </td>
              <td class="num">{count(row.accuracy.n)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Panel>
  );
}
