/** What is around every screen: navigation, who has signed in, the theme, the bar that names the emulator. */
import { html, signal, useEffect, useState } from "./html.mjs";
import { ownKey, session } from "./api.mjs";
import { Icon } from "./icons.mjs";
import { Link, href, route, screenName } from "./router.mjs";
import { screenOf, visibleScreens } from "./screens.mjs";
import { OwnKeyPage, SignInPage, bringsOwnKey, signOut } from "./session.mjs";
import { Failure, Loading, Missing } from "./states.mjs";
import { nextTheme, theme } from "./theme.mjs";
import { Toasts, attempt } from "./toast.mjs";

const open = signal(false);

/** What stands above every page where no answer is Cohere's. */
function EmulatorBar() {
  if (!session.value?.demo) return null;
  return html`<div class="emulator-bar" role="region" aria-label="Emulator"><strong>EMULATOR</strong><span>Answers come from a stand-in for Cohere.<span class="optional"> They mean nothing, and nothing is billed: costs are made of Cohere's prices all the same.</span></span></div>`;
}

function Navigation() {
  /** @type {Map<string, any[]>} */
  const groups = new Map();
  for (const screen of visibleScreens()) groups.set(screen.group, [...(groups.get(screen.group) ?? []), screen]);
  const here = screenOf(screenName.value);
  const close = () => { open.value = false; };
  return html`<nav class="sidebar" data-open=${open.value} aria-label="Screens">
    <${Link} to=${href("")} class="brand" onClick=${close}><img src=${new URL("../icon.svg", import.meta.url).pathname} width="20" height="20" alt="" /><span>cohere-gateway</span><//>
    ${[...groups].map(([group, screens]) => html`<section key=${group}>
      ${group && html`<h2>${group}</h2>`}
      <ul>${screens.map((screen) => html`<li key=${screen.path}><${Link} to=${href(screen.path)} current=${screen === here} onClick=${close}><${Icon} name=${screen.icon} />${screen.title}<//></li>`)}</ul>
    </section>`)}
    <${Account} />
  </nav>`;
}

/** @type {Record<string, string>} */
const ROLES = { master: "Master key", admin: "Admin", viewer: "Viewer", "": "Key" };

function Account() {
  const info = session.value;
  const names = { auto: "Theme: as the system", light: "Theme: light", dark: "Theme: dark" };
  /** @type {Record<string, string>} */
  const icons = { auto: "auto", light: "sun", dark: "moon" };
  return html`<footer class="account">
    <div class="account-who">
      <span class="truncate" title=${info?.who?.name}>${info?.sign_in ? info.who?.name : bringsOwnKey.value ? "Your Cohere key" : "No key is needed here"}</span>
      <span class="muted small" title=${`Version ${info?.version}`}>${info?.sign_in ? ROLES[info.who?.role ?? ""] : info?.mode}</span>
    </div>
    <button class="icon-button" title=${names[/** @type {"auto"} */ (theme.value)]} aria-label=${names[/** @type {"auto"} */ (theme.value)]} onClick=${nextTheme}><${Icon} name=${icons[theme.value]} /></button>
    ${bringsOwnKey.value && html`<button class="icon-button" title="Forget the key" aria-label="Forget the key" onClick=${() => { ownKey.value = ""; }}><${Icon} name="out" /></button>`}
    ${info?.sign_in && html`<button class="icon-button" title="Sign out" aria-label="Sign out" onClick=${() => attempt(signOut)}><${Icon} name="out" /></button>`}
  </footer>`;
}

/** Loads a screen's module when it is first shown. @param {{screen: import("./screens.mjs").Screen}} props */
function ScreenOf({ screen }) {
  const [state, setState] = useState(/** @type {any} */ ({}));
  useEffect(() => {
    let current = true;
    setState({});
    screen.load().then(
      (module) => current && setState({ component: module.default }),
      () => current && setState({ error: new Error("This part of the console cannot be loaded: reload the page") }),
    );
    document.title = `${screen.title} · cohere-gateway`;
    return () => { current = false; };
  }, [screen]);
  if (state.error) return html`<${Failure} error=${state.error} />`;
  if (!state.component) return html`<${Loading} />`;
  return html`<${state.component} key=${screen.path} />`;
}

export function Shell() {
  const info = session.value;
  if (info === null) return null;
  if (!info.who && !(bringsOwnKey.value && ownKey.value)) return html`<${EmulatorBar} />${bringsOwnKey.value ? html`<${OwnKeyPage} />` : html`<${SignInPage} />`}`;
  const screen = screenOf(screenName.value);
  return html`
    <a class="skip-link" href="#content">Skip to the content</a>
    <${EmulatorBar} />
    <div class="layout">
      <header class="top-bar">
        <button class="icon-button" aria-label="Screens" aria-expanded=${open.value} onClick=${() => { open.value = !open.value; }}><${Icon} name=${open.value ? "close" : "menu"} /></button>
        <span>${screen?.title ?? "Not found"}</span>
      </header>
      <${Navigation} />
      <main id="content" tabindex="-1">
        ${screen ? html`<${ScreenOf} screen=${screen} />` : html`<${Missing} address=${route.value.path} />`}
      </main>
    </div>
    <${Toasts} />`;
}
