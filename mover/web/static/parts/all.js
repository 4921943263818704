// One door for pages. What each part is for stands in its own module and in README.md.
export { Asked, Badge, Empty, Failure, Shape, Skeleton, Tally, toneOf } from "./states.js";
export { Bytes, Copy, Count, Duration, Facts, Head, Id, Panel, Rate, Tabs, Time } from "./figures.js";
export { Interval, Meter, Progress, StageBar } from "./bars.js";
export { Action, ActionDialog, Dialog, Equivalent, FieldRow, Plan } from "./dialog.js";
export { Table } from "./table.js";
export { Calendar, Figure, Heatmap, Histogram, Sparkline, TimePlot, Treemap, colour } from "./plots.js";
export { Yaml } from "./yaml.js";
export { Download, SaveFigure } from "./download.js";
export { Proofs } from "./proofs.js";
export { Reveal } from "./reveal.js";
export { Choose } from "./choose.js";
