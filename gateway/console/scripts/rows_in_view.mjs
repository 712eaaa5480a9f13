/** Which rows of a long table are drawn: those in the view, and some above and below it. The page itself scrolls. */
import { useLayoutEffect, useRef, useState } from "./html.mjs";

/** Rows that are drawn all together; of more, those near the view. */
export const MANY = 120;

/** Rows that are drawn above and below the view, so that the Tab key and a quick wheel find some there. */
const AROUND = 24;

/** The rows that are drawn change by so many at once: most frames of a scroll change none. */
const STEP = 8;

/**
 * Rows have one height, which is measured. first and last are as `slice` takes them; above and below are the pixels of
 * the rows that are not drawn. reveal scrolls a row that is not drawn into the middle of the view.
 * @param {{current: HTMLElement | null}} frame what the table is in @param {number} count @param {boolean} long
 * @returns {{first: number, last: number, above: number, below: number, reveal: (index: number) => void}}
 */
export function useRowsInView(frame, count, long) {
  const [view, setView] = useState({ first: 0, last: MANY, height: 0 });
  const shown = useRef(view);
  shown.current = view;
  const look = useRef(() => {});
  look.current = () => {
    const body = frame.current?.querySelector("tbody");
    const height = body?.querySelector("tr[data-row]")?.getBoundingClientRect().height;
    if (!body || !height) return;
    const top = -body.getBoundingClientRect().top / height;
    const first = Math.max(0, Math.floor((top - AROUND) / STEP) * STEP);
    const last = first + Math.ceil((innerHeight / height + 2 * AROUND) / STEP) * STEP + STEP;
    const before = shown.current;
    if (first !== before.first || last !== before.last || height !== before.height) setView({ first, last, height });
  };
  useLayoutEffect(() => {
    if (!long) return undefined;
    const listener = () => look.current();
    listener();
    addEventListener("scroll", listener, { passive: true });
    addEventListener("resize", listener);
    return () => { removeEventListener("scroll", listener); removeEventListener("resize", listener); };
  }, [long, count]);

  const { height } = view;
  if (!long) return { first: 0, last: count, above: 0, below: 0, reveal: () => {} };
  const first = Math.max(0, Math.min(view.first, count - MANY));
  const last = Math.min(count, view.last);
  /** @param {number} index */
  const reveal = (index) => {
    const body = frame.current?.querySelector("tbody");
    if (!body || (index >= first && index < last)) return;
    scrollTo(scrollX, scrollY + body.getBoundingClientRect().top + index * height - innerHeight / 2);
    look.current();
  };
  return { first, last, above: first * height, below: (count - last) * height, reveal };
}
