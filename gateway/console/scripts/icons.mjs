/** Icons: strokes on a grid of 16, in the colour of the text beside them. */
import { html } from "./html.mjs";

/** @type {Record<string, string>} */
const PATHS = {
  overview: "M2.5 2.5h4.5v6H2.5zM9 2.5h4.5v3.5H9zM9 8h4.5v5.5H9zM2.5 10.5H7v3H2.5z",
  key: "M9.6 6.4a3.4 3.4 0 1 0-2.3 3.2l.9.9h1.6v1.6h1.6v1.4h2.1v-2.3L9.4 7.4q.2-.5.2-1M5.2 5.6h.01",
  start: "M3 13.5v-11M3 3.2h8.6l-2 2.8 2 2.8H3",
  calls: "M2.5 4h11M2.5 8h11M2.5 12h7",
  usage: "M2.5 13.5v-4M6.2 13.5v-7M9.8 13.5v-5M13.5 13.5v-11",
  audit: "M4 2.5h8v11H4zM6.3 5.5h3.4M6.3 8h3.4M6.3 10.5h2",
  teams: "M6 8a2.3 2.3 0 1 0 0-4.6A2.3 2.3 0 0 0 6 8M1.8 13c.3-2.2 2-3.2 4.2-3.2s3.900 1 4.200 3.200M10.600 3.700a2.200 2.200 0 0 1 0 4M12 10.200c1.300.4 2 1.400 2.200 2.800",
  users: "M8 8a2.700 2.700 0 1 0 0-5.400A2.700 2.700 0 0 0 8 8M2.800 13.500c.4-2.500 2.600-3.700 5.200-3.700s4.800 1.200 5.200 3.700",
  play: "M4.500 2.800v10.400L12.800 8z",
  models: "M8 2 13.500 5v6L8 14l-5.500-3V5zM2.500 5 8 8l5.500-3M8 8v6",
  settings: "M2.500 4.500h6M11.500 4.500h2M2.500 11.500h2M7.500 11.500h6M10 3v3M6 10v3",
  menu: "M2.500 4h11M2.500 8h11M2.500 12h11",
  close: "M4 4l8 8M12 4l-8 8",
  sun: "M8 11a3 3 0 1 0 0-6 3 3 0 0 0 0 6M8 1.500v1.300M8 13.200v1.300M1.500 8h1.300M13.200 8h1.300M3.400 3.400l.9.9M11.700 11.700l.9.9M12.600 3.400l-.9.9M4.300 11.700l-.9.9",
  moon: "M13.200 9.600A5.600 5.600 0 0 1 6.400 2.800a5.600 5.600 0 1 0 6.800 6.800",
  auto: "M8 2a6 6 0 1 0 0 12zM8 2a6 6 0 0 1 0 12",
  copy: "M5.500 5.500h8v8h-8zM3.500 10.500h-1v-8h8v1",
  check: "M3 8.500 6.500 12 13 4.500",
  search: "M7 11.500a4.500 4.500 0 1 0 0-9 4.500 4.500 0 0 0 0 9M10.300 10.300l3.200 3.200",
  more: "M3.500 8h.01M8 8h.01M12.500 8h.01",
  plus: "M8 3v10M3 8h10",
  out: "M6.500 2.500h-4v11h4M10 5l3 3-3 3M13 8H6",
  link: "M9.500 2.500h4v4M13.500 2.500 8 8M12 9.500v4H2.500V4h4",
  down: "M4 6l4 4 4-4",
};

/** @param {{name: string, size?: number}} props */
export function Icon({ name, size = 16 }) {
  return html`<svg class="icon" width=${size} height=${size} viewBox="0 0 16 16" aria-hidden="true"><path d=${PATHS[name] ?? ""} /></svg>`;
}
