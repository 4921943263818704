// The way in: a name and a password, a token, or the hospital's own sign-in, as far as this daemon has them.
import { html, useState } from "../lib/preact.js";
import { Problem } from "../lib/api.js";
import { keeps, PROVIDER, signIn, ways } from "../lib/session.js";
import { useStore } from "../lib/store.js";
import { Failure, Shape } from "./states.js";

export function SignIn() {
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
  return html`<main class="gate"><form class="panel stack" onSubmit=${send} aria-labelledby="sign-in">
    <h1 id="sign-in">Sign in to Mover</h1>
    ${failed && html`<p class="stale" role="alert"><${Shape} tone="warn" /> The identity provider did not sign you in. Try again, or ask an admin.</p>`}
    ${known.provider && html`<a class="button" href=${`${PROVIDER}?to=${encodeURIComponent(back)}`}>Sign in with ${known.provider}</a><hr />`}
    ${by === "password" ? html`
      <div class="field"><label for="name">Name</label><input id="name" name="name" autocomplete="username" required autofocus /></div>
      <div class="field"><label for="password">Password</label><input id="password" name="password" type="password" autocomplete="current-password" required /></div>` : html`
      <div class="field"><label for="token">Token</label><input id="token" name="token" type="password" autocomplete="off" spellcheck=${false} required autofocus placeholder="mvr_…" aria-describedby="token-hint" />
        <small id="token-hint" class="muted">${keeps() ? "It opens a session; the token itself is not kept." : "It stays in this page's memory and is forgotten with the tab."} Made by <code>mover token make</code>.</small></div>`}
    ${state.problem && html`<${Failure} problem=${state.problem} />`}
    <button class="first" disabled=${state.busy}>${state.busy ? "Signing in" : "Sign in"}</button>
    ${known.password && html`<button type="button" class="link" onClick=${() => setBy(other)}>Use a ${other} instead</button>`}
  </form></main>`;
}
