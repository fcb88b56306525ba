// The words that two texts have in common, and those that they do not.

export interface Piece {
  kind: "same" | "first" | "second";
  text: string;
}

const MOST = 4_000; // words of a text: the table has the square of it

/** What leads from the first text to the second, word by word; both are cut after 4,000 words. */
export function diff(first: string, second: string): Piece[] {
  const [a, b] = [words(first), words(second)];
  let head = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head++;
  const pieces: Piece[] = head ? [{ kind: "same", text: a.slice(0, head).join("") }] : [];
  for (const [kind, word] of steps(a.slice(head), b.slice(head))) {
    const last = pieces.at(-1);
    if (last?.kind === kind) last.text += word;
    else pieces.push({ kind, text: word });
  }
  return pieces;
}

function words(text: string): string[] {
  return (text.match(/\s+|[^\s]+/g) ?? []).slice(0, MOST);
}

/** The longest common subsequence, by its table. */
function* steps(a: string[], b: string[]): Generator<[Piece["kind"], string]> {
  const width = b.length + 1;
  const table = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      table[i * width + j] =
        a[i] === b[j]
          ? table[(i + 1) * width + j + 1]! + 1
          : Math.max(table[(i + 1) * width + j]!, table[i * width + j + 1]!);
    }
  }
  let [i, j] = [0, 0];
  while (i < a.length && j < b.length) {
    if (a[i] === b[j]) {
      yield ["same", a[i]!];
      i++;
      j++;
    } else if (table[(i + 1) * width + j]! >= table[i * width + j + 1]!) yield ["first", a[i++]!];
    else yield ["second", b[j++]!];
  }
  while (i < a.length) yield ["first", a[i++]!];
  while (j < b.length) yield ["second", b[j++]!];
}
