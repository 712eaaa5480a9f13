/**
 * What components are made of. Every module of ours imports from here, so that the vendored packages stand in one place.
 */
import { h, render, Fragment, createContext, createRef } from "../vendor/preact.mjs";
import htm from "../vendor/htm.mjs";

export { h, render, Fragment, createContext, createRef };
export { useCallback, useContext, useEffect, useId, useLayoutEffect, useMemo, useRef, useState } from "../vendor/hooks.mjs";
export { signal, computed, effect, batch, useSignal, useComputed } from "../vendor/signals.mjs";

/** A tagged template that makes elements: texts in it are never markup. */
export const html = htm.bind(h);
