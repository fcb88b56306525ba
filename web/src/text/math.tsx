// Texts of models and problems: text nodes, with formulas as MathML that was built element by element.
//
// The one rule: nothing of a text becomes markup. KaTeX's output is parsed in an inert document and copied by a
// list of elements and attributes; all else, links and styles included, is left behind.

import katex from "katex";
import { useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";

const MATHML = "http://www.w3.org/1998/Math/MathML";
const ELEMENTS = new Set(
  "math mrow mi mn mo ms mtext mspace mfrac msqrt mroot msub msup msubsup munder mover munderover mmultiscripts mprescripts mtable mtr mtd mlabeledtr mstyle mpadded mphantom menclose merror".split(
    " ",
  ),
);
const ATTRIBUTES = new Set(
  "display displaystyle scriptlevel mathvariant mathcolor mathbackground stretchy symmetric fence separator form accent accentunder lspace rspace minsize maxsize movablelimits largeop linethickness width height depth voffset rowspacing columnspacing columnalign rowalign columnlines rowlines frame notation".split(
    " ",
  ),
);
const LONGEST_FORMULA = 2_000;
const LONGEST_INLINE = 400;
const MOST_FORMULAS = 300;
const PAGE = 20_000; // characters that are shown at first

export interface Part {
  text: string;
  math: "" | "inline" | "block";
}

/** A text in parts: formulas in $, $$, \( and \[, and what is between them. Linear in the text. */
export function parts(text: string): Part[] {
  const found: Part[] = [];
  let plain = 0;
  let at = 0;
  let n = 0;
  while (n < MOST_FORMULAS) {
    at = nextDelimiter(text, at);
    if (at < 0) break;
    const formula = formulaAt(text, at);
    if (!formula) {
      at += 1 + Number(text.startsWith("$$", at));
      continue;
    }
    if (at > plain) found.push({ text: text.slice(plain, at), math: "" });
    found.push({ text: formula.text, math: formula.math });
    plain = at = formula.end;
    n++;
  }
  if (plain < text.length) found.push({ text: text.slice(plain), math: "" });
  return found;
}

const DELIMITER = /\$|\\\(|\\\[/g;

function nextDelimiter(text: string, from: number): number {
  DELIMITER.lastIndex = from;
  for (let found = DELIMITER.exec(text); found; found = DELIMITER.exec(text)) {
    if (found[0] !== "$" || text[found.index - 1] !== "\\") return found.index; // \$ is a dollar
  }
  return -1;
}

function formulaAt(text: string, at: number): (Part & { end: number }) | null {
  for (const [open, close, math] of [["$$", "$$", "block"], ["\\[", "\\]", "block"], ["\\(", "\\)", "inline"]] as const) {
    if (text.startsWith(open, at)) {
      const inner = text.slice(at + 2, at + 2 + LONGEST_FORMULA);
      const end = inner.indexOf(close);
      return end <= 0 ? null : { text: inner.slice(0, end), math, end: at + 4 + end };
    }
  }
  const inner = text.slice(at + 1, at + 1 + LONGEST_INLINE);
  const end = /(?<!\\)\$/.exec(inner)?.index ?? -1;
  if (end <= 0 || /^\s|\s$|\n\s*\n/.test(inner.slice(0, end)) || /\d/.test(inner[end + 1] ?? "")) return null;
  return { text: inner.slice(0, end), math: "inline", end: at + 2 + end };
}

/** The MathML of a formula; null if it cannot be read. */
function element(formula: string, isBlock: boolean): Element | null {
  try {
    const markup = katex.renderToString(formula, {
      output: "mathml",
      displayMode: isBlock,
      trust: false,
      throwOnError: true,
      strict: "ignore",
      maxExpand: 200,
      maxSize: 20,
    });
    const root = new DOMParser().parseFromString(markup, "text/html").querySelector("math");
    return root && copied(root);
  } catch {
    return null;
  }
}

function copied(node: Element): Element {
  const made = document.createElementNS(MATHML, node.localName);
  for (const { name, value } of node.attributes) if (ATTRIBUTES.has(name)) made.setAttribute(name, value);
  for (const child of node.childNodes) {
    if (child.nodeType === Node.TEXT_NODE) made.append(child.nodeValue ?? "");
    else if (child instanceof Element && child.localName === "semantics") {
      const first = child.firstElementChild; // the rest are annotations
      if (first && ELEMENTS.has(first.localName)) made.append(copied(first));
    } else if (child instanceof Element && ELEMENTS.has(child.localName)) made.append(copied(child));
  }
  return made;
}

function Formula({ text, isBlock }: { text: string; isBlock: boolean }) {
  const place = useRef<HTMLSpanElement>(null);
  useLayoutEffect(() => {
    place.current?.replaceChildren(element(text, isBlock) ?? (isBlock ? `$$${text}$$` : `$${text}$`));
  }, [text, isBlock]);
  return <span ref={place} class={isBlock ? "formula block" : "formula"} />;
}

/** A text with its formulas; `find` marks what is searched. A very long text is shown in part at first. */
export function Rich({ text, find = "", math = true }: { text: string; find?: string; math?: boolean }) {
  const [isWhole, setWhole] = useState(false);
  const shown = isWhole || find ? text : text.slice(0, PAGE);
  const found = useMemo(
    () => (math && !find ? parts(shown) : [{ text: shown, math: "" } satisfies Part]),
    [shown, math, find],
  );
  return (
    <>
      {found.map((part, i) =>
        part.math ? (
          <Formula key={i} text={part.text} isBlock={part.math === "block"} />
        ) : (
          <Marked key={i} text={part.text} find={find} />
        ),
      )}
      {shown.length < text.length && (
        <button class="link" onClick={() => setWhole(true)}>
          … show {(text.length - shown.length).toLocaleString("en-US")} more characters
        </button>
      )}
    </>
  );
}

const MOST_MARKS = 500;

function Marked({ text, find }: { text: string; find: string }) {
  if (!find) return <>{text}</>;
  const [low, word] = [text.toLowerCase(), find.toLowerCase()];
  const made = [];
  let from = 0;
  for (let at = low.indexOf(word); at >= 0 && made.length < MOST_MARKS; at = low.indexOf(word, from)) {
    made.push(text.slice(from, at), <mark>{text.slice(at, at + word.length)}</mark>);
    from = at + word.length;
  }
  return (
    <>
      {made}
      {text.slice(from)}
    </>
  );
}
