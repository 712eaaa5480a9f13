/** The beginning: who has signed in, then the page. */
import { html, render } from "./html.mjs";
import "./keyboard.mjs";
import { loadSession } from "./session.mjs";
import { Shell } from "./shell.mjs";
import { Failure } from "./states.mjs";
import "./theme.mjs";

const root = /** @type {HTMLElement} */ (document.getElementById("app"));

async function start() {
  try {
    await loadSession();
    render(html`<${Shell} />`, root);
  } catch (error) {
    render(html`<main class="sign-in"><${Failure} error=${error} retry=${() => void start()} /></main>`, root);
  }
}

void start();
