/** What is around every screen: navigation, who has signed in, the theme, the bar that names the emulator. */
import { html, signal, useEffect, useState } from "./html.mjs";
import { ownKey, recovered, session, sessionOver } from "./api.mjs";
import { Icon } from "./icons.mjs";
import { Link, href, route, screenName } from "./router.mjs";
import { hiddenTitle, screenOf, visibleScreens } from "./screens.mjs";
import { OwnKeyPage, SessionOver, SignInPage, bringsOwnKey, signOut } from "./session.mjs";
import { Empty, Failure, Loading, Missing } from "./states.mjs";
import { nextTheme, theme } from "./theme.mjs";
import { Away, Toasts, attempt } from "./toast.mjs";

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

/** What stands in the place of a screen that is not for the key that has signed in. @param {{title: string}} props */
function NotPermitted({ title }) {
  const info = session.value;
  document.title = `${title} · cohere-gateway`;
  if (!info?.sign_in) return html`<${Empty} page title="Not shown here" icon="key">${title} is there where this gateway issues keys: start it with <code>GATEWAY_MASTER_KEY</code>. <${Link} to=${href("")}>Go to the first screen<//><//>`;
  return html`<${Empty} page title="Not permitted" icon="key">
    <p>${title} is for those who run the gateway. You have signed in with the key <strong>${info.who?.name}</strong>, which sees itself alone.</p>
    <p>Sign in with the master key, or with one that has the role admin or viewer.</p>
    <p class="buttons centered"><button onClick=${() => attempt(signOut)}>Sign in with another key</button><${Link} class="button" to=${href("")}>Go to the first screen<//></p><//>`;
}

/** Loads a screen's module when it is first shown. @param {{screen: import("./screens.mjs").Screen}} props */
function ScreenOf({ screen }) {
  const [state, setState] = useState(/** @type {any} */ ({}));
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    let current = true;
    setState((/** @type {any} */ before) => (before.screen === screen && before.component ? before : {}));
    screen.load().then(
      (module) => current && setState({ screen, component: module.default }),
      () => current && setState({ error: new Error("This part of the console cannot be loaded: the gateway does not answer, or is a newer one. Try again, or reload the page.") }),
    );
    document.title = `${screen.title} · cohere-gateway`;
    return () => { current = false; };
  }, [screen, turn, recovered.value]);
  if (state.error) return html`<${Failure} error=${state.error} retry=${() => setTurn(turn + 1)} />`;
  if (!state.component) return html`<${Loading} />`;
  return html`<${state.component} key=${screen.path} />`;
}

export function Shell() {
  const info = session.value;
  if (info === null) return null;
  if (!info.who && !(bringsOwnKey.value && ownKey.value)) return html`<${EmulatorBar} />${bringsOwnKey.value ? html`<${OwnKeyPage} />` : html`<${SignInPage} />`}`;
  const screen = screenOf(screenName.value);
  const hidden = hiddenTitle(screenName.value);
  // Another key has other screens: nothing that was open before is its business.
  const identity = `${info.who?.role} ${info.who?.key_id ?? info.who?.name}`;
  return html`
    <a class="skip-link" href="#content">Skip to the content</a>
    <${EmulatorBar} />
    <div class="layout">
      <header class="top-bar">
        <button class="icon-button" aria-label="Screens" aria-expanded=${open.value} onClick=${() => { open.value = !open.value; }}><${Icon} name=${open.value ? "close" : "menu"} /></button>
        <span>${screen?.title ?? (hidden || "Not found")}</span>
      </header>
      <${Navigation} />
      <main id="content" tabindex="-1">
        ${screen ? html`<${ScreenOf} key=${identity} screen=${screen} />` : hidden ? html`<${NotPermitted} title=${hidden} />` : html`<${Missing} address=${route.value.path} />`}
      </main>
    </div>
    <${Toasts} />
    <${Away} />
    ${sessionOver.value && html`<${SessionOver} />`}`;
}
