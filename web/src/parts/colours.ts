// Which colour stands for which class of answers: the leading one has the first, in every chart of a problem.

import type { AnswerClass, ProblemPage } from "../model";

const N_COLOURS = 6;

/** The CSS class of the colour of an answer's class, by its key; what no attempt holds is grey. */
export class Colours {
  private readonly places = new Map<string, number>();
  private readonly texts = new Map<string, string>();

  constructor(page: ProblemPage) {
    page.classes.forEach((one: AnswerClass, place) => {
      this.places.set(one.key, place);
      if (!this.texts.has(one.text)) this.texts.set(one.text, one.key);
    });
    for (const attempt of page.attempts) {
      if (attempt.key !== null && attempt.answer !== null && !this.texts.has(attempt.answer)) {
        this.texts.set(attempt.answer, attempt.key);
      }
    }
  }

  of(key: string | null): string {
    const place = key === null ? undefined : this.places.get(key);
    return place === undefined ? "c-none" : place < N_COLOURS ? `c-${place}` : "c-rest";
  }

  ofText(answer: string | null): string {
    return this.of(answer === null ? null : (this.texts.get(answer) ?? null));
  }
}
