// Renders the drawings of nouns.json from the packages of package.json: node render.mjs OUT_FOLDER
// One PNG (160 pixels high) per set and noun; pack.py makes the atlases of them. Run it where `npm ci` has run.
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';

const require = createRequire(path.join(process.cwd(), 'package.json'));
const { Resvg } = require('@resvg/resvg-js');
const out = process.argv[2];
const nouns = JSON.parse(fs.readFileSync(new URL('nouns.json', import.meta.url)));

const icons = {};
function svg(set, key) {
  icons[set] ??= require(`@iconify-json/${set}/icons.json`);
  const all = icons[set];
  const alias = all.aliases?.[key];
  const icon = all.icons[key] ?? { ...all.icons[alias.parent], ...alias };
  const box = [icon.left ?? 0, icon.top ?? 0, icon.width ?? all.width ?? 16, icon.height ?? all.height ?? 16];
  return `<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="${box.join(' ')}">${icon.body}</svg>`;
}

for (const [noun, keys] of Object.entries(nouns)) {
  for (const [set, key] of Object.entries(keys)) {
    fs.mkdirSync(path.join(out, set), { recursive: true });
    const file = path.join(out, set, noun.replaceAll(' ', '-'));
    if (set === 'fluent-3d') {
      const from = path.join(path.dirname(require.resolve('@lobehub/fluent-emoji-3d/package.json')), 'assets');
      fs.copyFileSync(path.join(from, `${key}.webp`), `${file}.webp`);
    } else {
      fs.writeFileSync(`${file}.png`, new Resvg(svg(set, key), { fitTo: { mode: 'height', value: 160 } }).render().asPng());
    }
  }
}
