// Alarms: what was told to whom outside this page, and whether it arrived.
import { html, useState } from "../lib/preact.js";
import { call } from "../lib/api.js";
import { count, moment, plural, words } from "../lib/format.js";
import { goQuery } from "../lib/router.js";
import { Action, Badge, Dialog, Empty, Equivalent, Facts, Head, Panel, Shape, Table, Tabs, Time } from "../parts/all.js";

const URGENT = { now: "bad", soon: "warn", know: "wait" };
const SAID = { opened: "began", grew: "became more", reminded: "reminded", closed: "over" };

export default function Alarms({ query }) {
  const standing = query.get("tab") !== "all";
  const [open, setOpen] = useState(null);
  const load = async (after, limit) => {
    const found = await call("oversight.alarms", { standing: standing || null, after, limit });
    return { rows: found.alarms, next: found.next };
  };
  const columns = [
    { name: "severity", label: "How urgent", width: "80px", text: (a) => a.severity, cell: (a) => html`<${Badge} state=${a.severity} tone=${URGENT[a.severity]}>${a.severity === "know" ? "to know" : a.severity}<//>` },
    { name: "words", label: "What", width: "minmax(100px, 3fr)", text: (a) => a.words, cell: (a) => html`<button class="link" title=${a.hint} onClick=${() => setOpen(a)}>${a.words}</button>` },
    { name: "told", label: "Told", width: "minmax(96px, 2fr)", wide: true, text: (a) => receivers(a).join(" "), cell: (a) => html`<${Told} alarm=${a} />` },
    { name: "opened", label: "Since", width: "minmax(84px, 112px)", text: (a) => a.opened_at, cell: (a) => html`<${Time} at=${a.opened_at} />` },
    { name: "closed", label: "Over", width: "104px", wide: true, text: (a) => a.closed_at ?? "", cell: (a) => (a.closed_at ? html`<${Time} at=${a.closed_at} />` : html`<${Badge} state="standing" tone="warn" />`) },
  ];
  return html`<${Head} title="Alarms" below="What needs somebody is told to the receivers that an alarm policy names, until it is over."><${Action} operation="oversight.try_alarm" label="Test a receiver" first
      fields=${[{ name: "receiver", label: "Receiver", kind: "text", required: true, hint: "Its name in the settings, such as the mail of the night shift." }]} consequence="A test goes out now, and the answer says whether it was taken. It is no alarm." told="The receiver took the test" /><//>
    <${Tabs} of=${[["", "Standing"], ["all", "All"]]} chosen=${standing ? "" : "all"} choose=${(one) => goQuery({ tab: one })} label="Which alarms" />
    <${Panel}><${Table} name="alarms" label="Alarms" columns=${columns} load=${load} id=${(a) => a.id} deps=${[standing]} rows=${14} filter=${false}
      empty=${html`<${Empty} title=${standing ? "No alarm stands" : "No alarm yet"}>A policy of kind <code>alarm</code> says which needs are told, to whom, and how often.<//>`} /><//>
    <${Equivalent} operation="oversight.alarms" said=${standing ? { standing: true } : {}} />${open && html`<${OneAlarm} of=${open} close=${() => setOpen(null)} />`}`;
}

const receivers = (alarm) => [...new Set(alarm.tellings.map((one) => one.receiver))];

function Told({ alarm }) {
  const lost = alarm.tellings.find((one) => one.given_up_at);
  const waits = alarm.tellings.some((one) => !one.told_at && !one.given_up_at);
  const [tone, said] = lost ? ["bad", "not taken"] : waits ? ["warn", "on its way"] : alarm.tellings.length ? ["good", "taken"] : ["wait", "not yet"];
  return html`<span title=${receivers(alarm).join(", ")}><${Shape} tone=${tone} /> ${said} <span class="muted">${receivers(alarm).join(", ")}</span></span>`;
}

function OneAlarm({ of, close }) {
  return html`<${Dialog} title=${of.words} close=${close} wide><p>${of.hint}</p>
    <${Facts} of=${[["code", html`<span class="mono">${of.code}</span>`], ["about", words(of.noun)], ["which", of.subject && html`<span class="mono">${of.subject}</span>`], ["how many", count(of.count)], ["since", moment(of.opened_at)], ["over", of.closed_at && moment(of.closed_at)]]} />
    <div class="scroll"><table><thead><tr><th>receiver</th><th>what</th><th>when</th><th>taken</th></tr></thead><tbody>${of.tellings.map((one, at) => html`<tr key=${at}><td class="mono">${one.receiver}</td><td>${SAID[one.event] ?? one.event}</td><td><${Time} at=${one.at} /></td>
      <td>${one.told_at ? html`<${Badge} state="taken" tone="good" /> <${Time} at=${one.told_at} />` : one.given_up_at ? html`<${Badge} state="given up" tone="bad" />` : html`<${Badge} state="on its way" tone="warn" /> ${plural(one.attempts, "try", "tries")}`}</td></tr>`)}</tbody></table></div><//>`;
}
