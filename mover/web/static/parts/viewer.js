// A slide to zoom through: OpenSeadragon over the tiles of `viewing.tile`, loaded when somebody looks. Around it our own
// buttons, a scale bar where the size of a pixel is known, and words where a picture cannot be shown.
import { html, useEffect, useRef, useState } from "../lib/preact.js";
import { ours, url } from "../lib/api.js";
import { count } from "../lib/format.js";
import { useAsk } from "../lib/live.js";
import { OPERATIONS } from "../lib/operations.js";
import { Failure, Skeleton } from "./states.js";

const AGAIN_MS = 2000;
const LOADING = 4; // of the six connections that a browser keeps
const PATIENCE_MS = 60_000;
const BAR_PX = 140;

/** @param {{number: string}} props */
export function SlideViewer({ number }) {
  const [coming, setComing] = useState(true);
  const { answer, problem } = useAsk("viewing.view", { number }, { every: coming ? AGAIN_MS : undefined });
  useEffect(() => setComing(!answer && problem?.retry !== "never"), [answer, problem]);
  // a slide that was withdrawn goes from the screen; what a daemon that is away said last stays
  if (answer && problem?.retry !== "never") return html`<${Zoom} view=${answer} key=${answer.digest} />`;
  if (problem?.code === "still-working") return html`<p role="status">Not yet: ${problem.message}. It is shown as soon as it is here.</p>`;
  if (problem) return html`<p class="muted">There is no zoomable picture of this slide. What is proved of it stands under “Before and after”.</p><${Failure} problem=${problem} />`;
  return html`<${Skeleton} rows=${8} />`;
}

function Zoom({ view }) {
  const frame = useRef(null);
  const box = useRef(null);
  const zoom = useRef(null);
  const [scale, setScale] = useState(null);
  const [shown, setShown] = useState(0);
  const [failed, setFailed] = useState(null);
  useEffect(() => {
    let gone = false;
    const begin = async () => {
      const OpenSeadragon = await library();
      if (gone) return;
      const viewer = OpenSeadragon(options(box.current, view));
      zoom.current = viewer;
      const measured = () => viewer.viewport && setScale(scaleOf(viewer.viewport, view));
      for (const event of ["open", "animation", "resize"]) viewer.addHandler(event, measured);
      viewer.addHandler("tile-loaded", () => setShown((n) => n + 1));
      viewer.addHandler("tile-load-failed", async ({ message, tileRequest }) => setFailed(await reason(tileRequest, message)));
      viewer.canvas.setAttribute("role", "application");
      viewer.canvas.setAttribute("aria-label", `Slide ${view.number}, ${count(view.width)} by ${count(view.height)} pixels. Arrows move, plus and minus zoom, 0 shows all of it.`);
    };
    begin();
    return () => {
      gone = true;
      zoom.current?.destroy();
    };
  }, []);
  /** By the sign on the key, whatever the keyboard; the viewer's own keys are those of an American one. */
  const keyed = (event) => {
    const act = { "+": () => by(1.25), "=": () => by(1.25), "-": () => by(0.8), 0: whole }[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  };
  const by = (factor) => zoom.current?.viewport.zoomBy(factor).applyConstraints();
  const whole = () => zoom.current?.viewport.goHome();
  const full = () => (document.fullscreenElement ? document.exitFullscreen() : frame.current.requestFullscreen());
  return html`<figure class="zoom" ref=${frame} data-shown=${shown} aria-label=${`The de-identified slide ${view.number}, to zoom through`}>
    <div class="zoom-box" ref=${box} onKeyDownCapture=${keyed} />
    <figcaption class="row apart"><span class="row"><button onClick=${() => by(1.6)} aria-label="Zoom in">+</button><button onClick=${() => by(1 / 1.6)} aria-label="Zoom out">−</button><button onClick=${whole}>Whole slide</button><button onClick=${full}>Full screen</button></span>
      ${scale && html`<span class="row small">${scale.times && html`<span class="muted">about ${scale.times}×</span>`}${scale.bar && html`<span class="scale" role="img" aria-label=${`scale bar: ${scale.words}`}><i style=${{ width: `${scale.bar}px` }} />${scale.words}</span>`}</span>`}
      ${scale && !scale.bar && html`<span class="small muted">The size of a pixel is not known: no scale.</span>`}</figcaption>
    ${failed && html`<p class="stale" role="status">A part of the slide is not shown: ${failed}</p>`}</figure>`;
}

/** A classic script: it comes as a tag, once, and only when a slide is looked at. */
let loading = null;
function library() {
  loading ??= new Promise((done, failed) => {
    // it would bring a style sheet in its text, which the page's policy refuses: it takes this for one of its own
    const none = document.createElementNS("urn:mover", "style");
    none.setAttribute("data-openseadragon-mobile-css", "none");
    const script = document.createElement("script");
    script.src = new URL("../vendor/openseadragon.js", import.meta.url).href;
    script.onload = () => done(globalThis.OpenSeadragon);
    script.onerror = () => failed(new Error("the viewer could not be loaded"));
    document.head.append(none, script);
  });
  return loading;
}

function options(element, view) {
  const path = OPERATIONS["viewing.tile"].path;
  const small = element.clientWidth < 560;
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return {
    element, drawer: "canvas", showNavigationControl: false, showNavigator: !small, navigatorPosition: "TOP_RIGHT", navigatorSizeRatio: 0.16,
    navigatorBackground: colour("--well"), navigatorOpacity: 1, navigatorBorderColor: colour("--rule-strong"), navigatorDisplayRegionColor: colour("--eosin"),
    loadTilesWithAjax: true, imageLoaderLimit: LOADING, timeout: PATIENCE_MS, tileRetryMax: 1, tileRetryDelay: 1500,
    maxZoomPixelRatio: 2, visibilityRatio: 0.5, animationTime: reduced() ? 0 : 0.5, gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
    tileSources: {
      width: view.width, height: view.height, tileSize: view.tile_px, tileOverlap: 0, minLevel: view.first_level, maxLevel: view.levels - 1,
      // who asks is said anew for each: somebody may have come back, or be gone for long
      downloadTileStart(job) {
        job.ajaxHeaders = ours("GET");
        globalThis.OpenSeadragon.TileSource.prototype.downloadTileStart.call(this, job);
      },
      getTileUrl: (level, x, y) => url(path, { number: view.number, level, tile: `${x}_${y}` }),
    },
  };
}

const reduced = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** How large things are on the screen now. */
function scaleOf(viewport, view) {
  const times = viewport.viewportToImageZoom(viewport.getZoom(true));
  const said = { times: view.objective ? Number((view.objective * times).toPrecision(2)) : null, bar: null, words: "" };
  if (!view.mpp_x) return said;
  const most = (BAR_PX * view.mpp_x) / times;
  const power = 10 ** Math.floor(Math.log10(most));
  const micrometres = [5, 2, 1].map((n) => n * power).find((n) => n <= most);
  return { ...said, bar: (micrometres * times) / view.mpp_x, words: micrometres >= 1000 ? `${micrometres / 1000} mm` : `${Number(micrometres.toPrecision(2))} µm` };
}

/** What the daemon said about a tile, where it said something. */
async function reason(request, message) {
  try {
    const told = JSON.parse(request.response instanceof Blob ? await request.response.text() : new TextDecoder().decode(request.response));
    return [told.detail, told.hint].filter(Boolean).join(". ");
  } catch {
    return message;
  }
}
