// Bundles the pages into the package: `make web` runs this. The output depends on the sources and the lock file alone.
import { build } from "esbuild";

const [target = "../orchestrator/report/page/bundle"] = process.argv.slice(2);
await build({
  entryPoints: { app: "src/app.tsx" },
  outdir: target,
  bundle: true,
  minify: true,
  format: "iife",
  target: ["chrome109", "firefox115", "safari16.4"],
  charset: "ascii",
  legalComments: "none",
  jsx: "automatic",
  jsxImportSource: "preact",
  logLevel: "warning",
});
