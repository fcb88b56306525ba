// The texts of attempts: thinking folded, search inside, what was recorded of each stretch, and a diff of two.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Attempt, ProblemPage } from "../model";
import { diff } from "../text/diff";
import { NONE, count, counted, duration, percent } from "../text/format";
import type { Colours } from "./colours";
import { Cut, Right } from "./common";

interface Props {
  page: ProblemPage;
  colours: Colours;
  open: number | null;
  choose: (attempt: number | null) => void;
  pair: [number | null, number | null];
  setPair: (pair: [number | null, number | null]) => void;
}

const FIRST = 40; // attempts that are listed at first

export function Attempts({ page, colours, open, choose, pair, setPair }: Props) {
  const [find, setFind] = useState("");
  const [all, setAll] = useState(false);
  const word = find.trim().length > 1 ? find.trim() : "";
  const matching = useMemo(
    () => page.attempts.filter((one) => !word || textOf(one).toLowerCase().includes(word.toLowerCase())),
    [page, word],
  );
  const shown = all || word ? matching : matching.slice(0, FIRST);
  const chosen = page.attempts.find((one) => one.attempt === open);
  const listed = chosen && !shown.includes(chosen) ? [...shown, chosen] : shown;
  return (
    <>
      <div class="bar">
        <label>
          Search the texts{" "}
          <input type="search" value={find} onInput={(e) => setFind(e.currentTarget.value)} placeholder="words" />
        </label>
        <span class="dim" aria-live="polite">
          {word ? `in ${matching.length} of ${page.attempts.length} attempts` : ""}
        </span>
        <PairPicker page={page} pair={pair} setPair={setPair} />
      </div>
      {pair[0] !== null && pair[1] !== null && <Diff page={page} pair={[pair[0], pair[1]]} />}
      <ul class="attempts">
        {listed.map((one) => (
          <One
            key={one.attempt}
            one={one}
            colours={colours}
            isOpen={open === one.attempt || (word !== "" && matching.length <= 8)}
            toggle={() => choose(open === one.attempt ? null : one.attempt)}
            find={word}
          />
        ))}
      </ul>
      {listed.length < matching.length && (
        <button onClick={() => setAll(true)}>show all {count(matching.length)} attempts</button>
      )}
    </>
  );
}

function textOf(one: Attempt): string {
  return `${one.thinking.text}${one.thinking.end}${one.reply.text}${one.reply.end}`;
}

function One(props: { one: Attempt; colours: Colours; isOpen: boolean; toggle: () => void; find: string }) {
  const { one, colours, isOpen, find } = props;
  const place = useRef<HTMLLIElement>(null);
  useEffect(() => {
    if (isOpen && !find) place.current?.scrollIntoView({ block: "nearest" });
  }, [isOpen]);
  return (
    <li ref={place} class={isOpen ? "open" : ""} id={`attempt-${one.attempt}`}>
      <button class="head" aria-expanded={isOpen} onClick={props.toggle}>
        <svg width="10" height="10" aria-hidden="true">
          <circle class={colours.of(one.key)} cx="5" cy="5" r="5" />
        </svg>
        <b>{one.attempt}</b>
        <span class="state">{one.state}</span>
        <span class="answer">{one.answer ?? NONE}</span>
        <Right right={one.right} />
        <span class="dim num">{count(one.tokens)} tokens</span>
        {!isOpen && <span class="dim preview">{preview(one)}</span>}
      </button>
      {isOpen && <Body one={one} find={find} />}
    </li>
  );
}

/** The beginning of a reply; where no answer was read in it, its end, where one would be. */
function preview(one: Attempt): string {
  const text = `${one.reply.text}${one.reply.end}`.trim();
  return one.state === "abstained" && text.length > 80 ? `… ${text.slice(-80)}` : text.slice(0, 160);
}

function Body({ one, find }: { one: Attempt; find: string }) {
  const hasThinking = one.thinking.text !== "";
  const inThinking = find !== "" && `${one.thinking.text}${one.thinking.end}`.toLowerCase().includes(find.toLowerCase());
  const length = one.thinking_tokens ? `${count(one.thinking_tokens)} tokens` : `${count(one.thinking.text.length + one.thinking.n_left_out + one.thinking.end.length)} characters`;
  return (
    <div class="body">
      <p class="facts dim">
        {[
          one.model && `model ${one.model}`,
          one.depth !== null && `depth ${one.depth}`,
          `ended by ${one.finish}`,
          duration(one.seconds),
          ...one.verdicts.map((v) => `${v.verifier} ${v.score.toFixed(3)}${v.note ? ` (${v.note})` : ""}`),
          ...Object.entries(one.metrics).map(([name, value]) => `${name} ${value.toPrecision(4)}`),
          one.common !== null && one.common > 20 && `parts from the leader's first attempt after ${count(one.common)} characters`,
        ]
          .filter(Boolean)
          .join(" · ")}
      </p>
      {one.strip && <Heat one={one} />}
      {one.error && <p class="bad">{one.error}</p>}
      {one.note && <p class="warn">{one.note}</p>}
      {hasThinking && (
        <details class="thinking" open={inThinking}>
          <summary>thinking, {length}</summary>
          <div class="text" dir="auto">
            <Cut text={one.thinking} find={find} />
          </div>
        </details>
      )}
      <div class="text" dir="auto">
        {one.reply.text.trim() ? <Cut text={one.reply} find={find} /> : <span class="dim">(no reply)</span>}
      </div>
    </div>
  );
}

/** What was recorded of each stretch or step, as cells as wide as it is long, and the depth of each token. */
function Heat({ one }: { one: Attempt }) {
  const { tokens, metrics, depths } = one.strip!;
  const rows = tokens.length < 2 ? [] : Object.entries(metrics);
  if (rows.length === 0 && depths.length < 2) return null;
  const total = tokens.reduce((sum, n) => sum + n, 0);
  return (
    <table class="heat">
      <caption class="dim">recorded from the first token to the last</caption>
      <tbody>
        {rows.map(([name, values]) => (
          <HeatRow key={name} name={name} values={values} tokens={tokens} />
        ))}
        {depths.length > 1 && <HeatRow name="depth of each token" values={depths} tokens={depths.map(() => total / depths.length)} />}
      </tbody>
    </table>
  );
}

function HeatRow({ name, values, tokens }: { name: string; values: (number | null)[]; tokens: number[] }) {
  const total = tokens.reduce((sum, n) => sum + n, 0) || 1;
  const known = values.filter((v) => v !== null);
  const [low, high] = [Math.min(...known), Math.max(...known)];
  let at = 0;
  return (
    <tr>
      <th scope="row">{name}</th>
      <td>
        <svg width="100%" height="14" role="img" aria-label={`${name}: ${known.map((v) => v.toPrecision(3)).join(", ")}`}>
          {values.map((value, i) => {
            const x = at;
            at += tokens[i]!;
            if (value === null) return null;
            const strength = high > low ? (value - low) / (high - low) : 1;
            return (
              <rect key={i} class="cell" x={`${(100 * x) / total}%`} width={`${(100 * tokens[i]!) / total}%`} height="14" fill-opacity={0.15 + 0.85 * strength}>
                <title>{`${name} ${value.toPrecision(4)}, tokens ${count(Math.round(x))} to ${count(Math.round(x + tokens[i]!))}`}</title>
              </rect>
            );
          })}
        </svg>
      </td>
      <td class="num dim">{low.toPrecision(3)} to {high.toPrecision(3)}</td>
    </tr>
  );
}

function PairPicker({ page, pair, setPair }: Pick<Props, "page" | "pair" | "setPair">) {
  const options = page.attempts.map((one) => (
    <option key={one.attempt} value={one.attempt}>
      {one.attempt}: {one.answer?.slice(0, 24) ?? one.state}
    </option>
  ));
  const pick = (place: 0 | 1) => (event: Event) => {
    const value = (event.currentTarget as HTMLSelectElement).value;
    const next: [number | null, number | null] = [...pair];
    next[place] = value === "" ? null : Number(value);
    setPair(next);
  };
  return (
    <span class="pair">
      <label>
        Compare{" "}
        <select value={pair[0] ?? ""} onChange={pick(0)}>
          <option value="">attempt</option>
          {options}
        </select>
      </label>{" "}
      <label>
        with{" "}
        <select value={pair[1] ?? ""} onChange={pick(1)}>
          <option value="">attempt</option>
          {options}
        </select>
      </label>
    </span>
  );
}

function Diff({ page, pair }: { page: ProblemPage; pair: [number, number] }) {
  const [first, second] = pair.map((n) => page.attempts.find((one) => one.attempt === n));
  const pieces = useMemo(() => (first && second ? diff(textOf(first), textOf(second)) : []), [first, second]);
  if (!first || !second) return null;
  const same = pieces.filter((p) => p.kind === "same").reduce((n, p) => n + p.text.length, 0);
  const head = pieces[0]?.kind === "same" && pieces[0].text.trim() ? pieces[0].text.length : 0;
  const all = Math.max(1, textOf(first).length + textOf(second).length);
  return (
    <div class="diff">
      <p class="dim">
        <del>attempt {first.attempt}</del> and <ins>attempt {second.attempt}</ins>: they part {head ? `after ${counted(head, "character")}` : "at their first word"};{" "}
        {percent((2 * same) / all, 0)} of their words are the same
      </p>
      <div class="text" dir="auto" tabindex={0} role="region" aria-label="Difference of two attempts">
        {pieces.map((piece, i) =>
          piece.kind === "same" ? <span key={i}>{piece.text}</span> : piece.kind === "first" ? <del key={i}>{piece.text}</del> : <ins key={i}>{piece.text}</ins>,
        )}
      </div>
    </div>
  );
}
