// The way in: a name and a password, a token, or the hospital's own sign-in, as far as this daemon has them.
import { html, useState } from "../lib/preact.js";
import { Problem } from "../lib/api.js";
import { keeps, PROVIDER, signIn, ways } from "../lib/session.js";
import { useStore } from "../lib/store.js";
import { Dialog } from "./dialog.js";
import { Failure, Shape } from "./states.js";

export function SignIn() {
  return html`<main class="gate"><${Way} title="Sign in to Mover" /></main>`;
}

/** In front of what somebody did when their session ended: it stays as it is, unseen, and shows again for them alone. */
export function Again({ who, leave }) {
  return html`<${Dialog} title="Your session is over" close=${leave}><div class="stack"><p>Sign in again as <strong>${who.actor}</strong> to go on where you were: what you typed is still there.</p>
    <${Way} /><p><button class="link" onClick=${leave}>Sign out instead</button></p></div><//>`;
}

function Way({ title }) {
  const known = useStore(ways);
  const [by, setBy] = useState(known.password ? "password" : "token");
  const [state, setState] = useState({ problem: null, busy: false });
  const send = async (event) => {
    event.preventDefault();
    const said = Object.fromEntries(new FormData(event.currentTarget));
    setState({ problem: null, busy: true });
    try {
      await signIn(by === "password" ? { name: said.name, password: said.password } : { token: said.token.trim() });
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      setState({ problem, busy: false });
    }
  };
  const failed = new URLSearchParams(location.search).get("sign-in") === "failed";
  const back = failed ? "/ui/" : location.pathname + location.search;
  const other = by === "password" ? "token" : "password";
  return html`<form class="${title ? "panel " : ""}stack" onSubmit=${send} aria-label=${title ?? "Sign in again"}>
    ${title && html`<h1>${title}</h1>`}
    ${failed && html`<p class="stale" role="alert"><${Shape} tone="warn" /> The identity provider did not sign you in. Try again, or ask an admin.</p>`}
    ${known.provider && html`<a class="button" target=${title ? undefined : "_blank"} href=${`${PROVIDER}?to=${encodeURIComponent(back)}`}>Sign in with ${known.provider}</a><hr />`}
    ${by === "password" ? html`
      <div class="field"><label for="name">Name</label><input id="name" name="name" autocomplete="username" required autofocus /></div>
      <div class="field"><label for="password">Password</label><input id="password" name="password" type="password" autocomplete="current-password" required /></div>` : html`
      <div class="field"><label for="token">Token</label><input id="token" name="token" type="password" autocomplete="off" spellcheck=${false} required autofocus placeholder="mvr_…" aria-describedby="token-hint" />
        <small id="token-hint" class="muted">${keeps() ? "It opens a session; the token itself is not kept." : "It stays in this page's memory and is forgotten with the tab."} Made by <code>mover token make</code>.</small></div>`}
    ${state.problem && html`<${Failure} problem=${state.problem} />`}
    <button class="first" disabled=${state.busy}>${state.busy ? "Signing in" : "Sign in"}</button>
    ${title && known.password && html`<small class="muted">No account? An admin makes one: <code>mover account add NAME</code>, or the page People.</small>`}
    ${known.password && html`<button type="button" class="link" onClick=${() => setBy(other)}>Use a ${other} instead</button>`}
  </form>`;
}
