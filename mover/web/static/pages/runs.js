import { html } from "../lib/preact.js";
import { useAsk } from "../lib/live.js";
import { Asked, Head, Panel } from "../parts/all.js";

export default function Overview() {
  const status = useAsk("service.status");
  return html`<${Head} title="Overview" /><${Asked} asked=${status}>${(s) => html`<${Panel} title="x">${s.node}<//>`}<//>`;
}
