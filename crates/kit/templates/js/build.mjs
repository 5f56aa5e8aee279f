// Makes {{name}}.wasm of src/policy.js.

import { writeFile } from 'node:fs/promises';
import { componentize } from '@bytecodealliance/componentize-js';

const { component } = await componentize({
  sourcePath: 'src/policy.js',
  witPath: 'wit',
  worldName: 'sync-policy',
  // A policy has no WASI: everything that would import it is left out. Date.now and Math.random
  // have nothing behind them then; use the contract's clock and random.
  disableFeatures: ['stdio', 'random', 'clocks', 'http', 'fetch-event'],
});
await writeFile('{{name}}.wasm', component);
