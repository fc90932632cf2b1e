/** Faults of the store in Chromium: the browser killed, tabs at once, damage, an exhausted quota. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type * as Sluice from 'sluice';
import type * as Journals from '../../src/store/journal_slots.js';
import type * as StoreModules from '../../src/store/store_module.js';
import type * as PageLoad from '../browser/page_load.js';
import type { LoadOutcome, LoadRequest } from '../browser/page_load.js';
import { startChromium, type Chromium, type ChromiumPage } from '../support/chromium.js';
import { startServer, type TestServer } from '../support/server.js';
import {
  askedBytes,
  cacheModel,
  fileModel,
  serve,
  within,
  withFolder,
  type Chance,
  type Subject,
  type Tally,
} from './support.js';

const MIB = 2 ** 20;
const LIMIT_MS = 180_000;
const PROBES = 64;

/** Who loads: the page's loading worker with a GPU, the page alone, or a worker of the page's own. */
const PLACES = ['loading worker', 'page', 'own worker'] as const;
type Place = (typeof PLACES)[number];

function run(
  browser: Chromium,
  page: ChromiumPage,
  place: Place,
  url: string,
): Promise<LoadOutcome> {
  const argument: LoadRequest & { origin: string } = {
    url,
    device: place === 'loading worker' ? 'gpu' : 'cpu',
    options: { store: true },
    dist: `${browser.origin}/dist/`,
    origin: browser.origin,
  };
  const act = async (given: LoadRequest & { origin: string }): Promise<LoadOutcome> => {
    const path = `${given.origin}/test/browser/page_load.js`;
    const { load } = (await import(path)) as typeof PageLoad;
    return load(given);
  };
  return place === 'own worker'
    ? page.evaluateInWorker(act, argument)
    : page.evaluate(act, argument);
}

function checkOutcome(outcome: LoadOutcome, { tensors }: Subject): void {
  assert.equal(
    outcome.error,
    undefined,
    `${outcome.error?.code ?? ''}: ${outcome.error?.message ?? ''}`,
  );
  const digests = Object.entries(outcome.tensors).map(([name, tensor]) => [
    name,
    tensor.digests[0],
  ]);
  assert.deepEqual(
    digests,
    tensors.map(({ name, bytes }) => [name, createHash('sha256').update(bytes).digest('hex')]),
    'WRONG BYTES',
  );
}

/** Bytes that the store has of the model at `url`. */
function storedBytes(browser: Chromium, page: ChromiumPage, url: string): Promise<number> {
  return page.evaluate(
    async ({ dist, key }) => {
      const { openStore } = (await import(`${dist}index.js`)) as typeof Sluice;
      const models = await (await openStore()).models();
      return models.find((model) => model.key === key)?.storedBytes ?? 0;
    },
    { dist: `${browser.origin}/dist/`, key: url },
  );
}

/** Deletes every stored model that is not in use, as soon as none is. */
async function clearStore(browser: Chromium, page: ChromiumPage): Promise<void> {
  const left = await page.evaluate(
    async ({ dist }) => {
      const { openStore } = (await import(`${dist}index.js`)) as typeof Sluice;
      const store = await openStore();
      let kept: string[] = [];
      for (let attempt = 0; attempt < 100; attempt++) {
        kept = await store.clear();
        if (kept.length === 0) break;
        await new Promise((resume) => setTimeout(resume, 50));
      }
      return kept;
    },
    { dist: `${browser.origin}/dist/` },
  );
  assert.deepEqual(left, [], 'models stay in use');
}

/** Ends a browser that may be gone already. */
async function end(browser: Chromium): Promise<void> {
  await within(20_000, 'the browser ends', browser.close()).catch(() => undefined);
}

/** Of an origin that comes again: below those that the system gives away, so that nobody else has it meanwhile. */
const KEPT_PORT = 20_000 + (process.pid % 10_000);

/**
 * The browser's main process killed at a random moment of a cold load, and started again on the same profile: what the
 * store says it has then is right, and only the rest is fetched.
 */
export async function browserKills(tally: Tally, count: number, chance: Chance): Promise<void> {
  const models = [cacheModel(4, 2 * MIB, 2000), fileModel(14 * MIB, 2100)];
  await withFolder(async (profile) => {
    const server = await startServer();
    let browser = await startChromium({ profile, port: KEPT_PORT });
    try {
      for (let i = 0; i < count; i++) {
        await tally.case(`kill ${i}`, LIMIT_MS, async () => {
          const model = chance.pick(models);
          const place = chance.pick(PLACES);
          const folder = `/${i}/`;
          const url = serve(server, folder, model);
          const files = Object.keys(model.files);
          // As fast as it goes, or slow enough to be met at every stage; the load that resumes is not slowed
          const speed = chance.pick([0, 3, 6, 12]);
          const slow = 40;
          if (speed > 0) {
            for (const file of files) {
              server.addFault({ path: folder + file, bytesPerSecond: speed * MIB, times: slow });
            }
          }
          const page = await browser.newPage();
          const loading = run(browser, page, place, url).catch(() => undefined);
          await sleep(chance.next() * chance.pick([400, 1200, 2500]));
          process.kill(browser.pid, 'SIGKILL');
          const ended = await within(20_000, 'a killed page answers', loading);
          if (ended) tally.note('loads that ended first');
          await end(browser);
          browser = await startChromium({ profile, port: KEPT_PORT });
          const again = await browser.newPage();
          const before = await storedBytes(browser, again, url);
          if (before === 0) tally.note('nothing was stored yet');
          else if (before === model.nbytes) tally.note('all was stored');
          else tally.note('a part was stored');
          const from = server.requests.length;
          const resumed = await run(browser, again, place, url);
          checkOutcome(resumed, model);
          assert.equal(resumed.report?.store?.problem, undefined);
          const asked = askedBytes(server, folder, model, from);
          assert.ok(
            asked + before <= model.nbytes + PROBES,
            `${asked} asked, ${before} of ${model.nbytes} stored`,
          );
          assert.equal(before + (resumed.report?.store?.storedBytes ?? NaN), model.nbytes);
          const warm = server.requests.length;
          checkOutcome(await run(browser, again, chance.pick(PLACES), url), model);
          assert.equal(server.requests.length, warm, 'a whole model was asked for again');
          if (i % 10 === 9) await clearStore(browser, again);
          await again.close();
          for (const file of files) Reflect.deleteProperty(server.files, folder + file);
        });
        // Also after a case that failed in the middle
        if (!isRunning(browser.pid)) {
          await end(browser);
          browser = await startChromium({ profile, port: KEPT_PORT });
        }
      }
    } finally {
      await end(browser);
      await server.close();
    }
  });
}

/** One-byte extents of a file that no load asks for: so many make a journal that takes long to write. */
const BALLAST = 300_000;

/**
 * The browser killed up to 20 ms after it has begun to rewrite a journal of 24 MiB in one of 11 MiB: what was stored
 * is there afterwards, and is asked for by nobody.
 */
export async function browserCompactionKills(
  tally: Tally,
  count: number,
  chance: Chance,
): Promise<void> {
  const model = cacheModel(2, 200_000, 2300);
  await withFolder(async (profile) => {
    const server = await startServer();
    let browser = await startChromium({ profile, port: KEPT_PORT });
    try {
      const url = serve(server, '/m/', model);
      checkOutcome(await run(browser, await browser.newPage(), 'page', url), model);
      for (let i = 0; i < count; i++) {
        await tally.case(`compaction ${i}`, LIMIT_MS, async () => {
          const page = await browser.newPage();
          await lengthenJournal(browser, page, url);
          const before = await storedBytes(browser, page, url);
          assert.ok(before > BALLAST + model.nbytes / 2, `${before} bytes are stored`);
          const watcher = await browser.newPage();
          const begins = compactionBegins(browser, watcher);
          const loading = run(browser, page, 'own worker', url).catch(() => undefined);
          await within(LIMIT_MS / 2, 'a compaction begins', begins);
          await sleep(chance.next() * 20);
          process.kill(browser.pid, 'SIGKILL');
          await within(20_000, 'a killed page answers', loading);
          await end(browser);
          browser = await startChromium({ profile, port: KEPT_PORT });
          const again = await browser.newPage();
          tally.note(await compactionState(browser, again));
          const left = await storedBytes(browser, again, url);
          assert.ok(left >= before, `${left} of ${before} bytes are left`);
          const from = server.requests.length;
          const resumed = await run(browser, again, 'own worker', url);
          checkOutcome(resumed, model);
          assert.equal(resumed.report?.store?.problem, undefined);
          const asked = askedBytes(server, '/m/', model, from);
          assert.ok(
            asked + left <= BALLAST + model.nbytes + PROBES,
            `${asked} bytes were asked for`,
          );
          await again.close();
        });
        if (!isRunning(browser.pid)) {
          await end(browser);
          browser = await startChromium({ profile, port: KEPT_PORT });
        }
      }
    } finally {
      await end(browser);
      await server.close();
    }
  });
}

/** Makes the only stored model's journal one that the next to write compacts, with one extent less. */
async function lengthenJournal(browser: Chromium, page: ChromiumPage, key: string): Promise<void> {
  await page.evaluateInWorker(
    async ({ dist, key, ballast }) => {
      const { openStore } = (await import(`${dist}index.js`)) as typeof Sluice;
      const { StoreModule } = (await import(`${dist}store/store_module.js`)) as typeof StoreModules;
      const { readJournal } = (await import(`${dist}store/journal_slots.js`)) as typeof Journals;
      const { platform } = await openStore();
      const module = await StoreModule.create(await platform.module());
      const models = await (await platform.openRoot()).folder('models', true);
      const folder = await models.folder(module.folderName(key), false);
      const journal = await readJournal(module, folder, key);
      if (!journal) throw new Error('no journal is left');
      const { model, slot, validBytes } = journal;
      const { files } = model.snapshot();
      const shard = files.findLast(({ path }) => path !== 'ballast' && !path.endsWith('.json'));
      if (!shard) throw new Error('no shard is stored');
      model.drop(shard.index, 0, 1);
      if (!files.some(({ path }) => path === 'ballast')) {
        const { index } = model.file('ballast', ballast, { etag: '', lastModified: '' });
        for (let at = 0; at < ballast; at++) model.add(index, at, at + 1, { low: at, high: 0 });
      }
      for (let i = 0; i < 750_000; i++) model.used();
      const file = await folder.file(slot, false);
      file.write(model.journal(), validBytes);
      file.flush();
      file.close();
      model.free();
    },
    { dist: `${browser.origin}/dist/`, key, ballast: BALLAST },
  );
}

/** Resolves when a journal of the only stored model changes, which a load does first by compacting it. */
function compactionBegins(browser: Chromium, page: ChromiumPage): Promise<void> {
  return page.evaluate(
    async ({ dist }) => {
      const { openStore } = (await import(`${dist}index.js`)) as typeof Sluice;
      const { platform } = await openStore();
      const models = await (await platform.openRoot()).folder('models', true);
      const [only] = await models.entries();
      const folder = await models.folder(only?.name ?? '', false);
      const journals = async (): Promise<string> => {
        const files = await folder.entries();
        return JSON.stringify(files.filter(({ name }) => name.startsWith('journal')));
      };
      const before = await journals();
      while ((await journals()) === before);
    },
    { dist: `${browser.origin}/dist/` },
  );
}

/** What became of a compaction. */
function compactionState(browser: Chromium, page: ChromiumPage): Promise<string> {
  return page.evaluate(
    async ({ dist }) => {
      const { openStore } = (await import(`${dist}index.js`)) as typeof Sluice;
      const { StoreModule } = (await import(`${dist}store/store_module.js`)) as typeof StoreModules;
      const { readJournal } = (await import(`${dist}store/journal_slots.js`)) as typeof Journals;
      const { platform } = await openStore();
      const module = await StoreModule.create(await platform.module());
      const models = await (await platform.openRoot()).folder('models', true);
      const [only] = await models.entries();
      const folder = await models.folder(only?.name ?? '', false);
      const journal = await readJournal(module, folder);
      journal?.model.free();
      if (!journal) return 'nothing left';
      return journal.bytes.byteLength < 14 * 2 ** 20 ? 'done' : 'interrupted';
    },
    { dist: `${browser.origin}/dist/` },
  );
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

async function inBrowser(
  act: (browser: Chromium, server: TestServer) => Promise<void>,
): Promise<void> {
  const browser = await startChromium();
  const server = await startServer();
  try {
    await act(browser, server);
  } finally {
    await end(browser);
    await server.close();
  }
}

/** Two and three tabs that load one model at once, in some cases with one closed in the middle: one download in all. */
export async function tabs(tally: Tally, count: number, chance: Chance): Promise<void> {
  const models = [cacheModel(4, 2 * MIB, 2200), fileModel(14 * MIB, 2300)];
  await inBrowser(async (browser, server) => {
    for (let i = 0; i < count; i++) {
      await tally.case(`tabs ${i}`, LIMIT_MS, async () => {
        const model = chance.pick(models);
        const folder = `/${i}/`;
        const url = serve(server, folder, model);
        for (const file of Object.keys(model.files)) {
          server.addFault({ path: folder + file, bytesPerSecond: 16 * MIB });
        }
        const pages = await Promise.all(
          Array.from({ length: 2 + (i % 2) }, () => browser.newPage()),
        );
        const closed = i % 4 >= 2 ? chance.below(pages.length) : -1;
        const places = pages.map(() => chance.pick(PLACES));
        const loads = pages.map((page, k) =>
          run(browser, page, places[k] ?? 'page', url).catch((error: unknown) => {
            if (k !== closed) throw error;
            return undefined;
          }),
        );
        if (closed >= 0) {
          await sleep(chance.next() * 1500);
          await pages[closed]?.close();
        }
        let fetched = 0;
        for (const loaded of await Promise.all(loads)) {
          if (!loaded) continue;
          checkOutcome(loaded, model);
          assert.equal(loaded.report?.store?.problem, undefined);
          fetched += loaded.report?.store?.storedBytes ?? 0;
        }
        const asked = askedBytes(server, folder, model);
        const slack = closed >= 0 ? 4 * 4 * MIB : 0;
        assert.ok(
          asked <= model.nbytes + PROBES + slack,
          `${asked} bytes asked, the model has ${model.nbytes}`,
        );
        if (closed < 0) assert.equal(fetched, model.nbytes);
        tally.note(closed >= 0 ? 'one of them closed' : `${pages.length} at once`);
        for (const [k, page] of pages.entries()) if (k !== closed) await page.close();
        const last = await browser.newPage();
        const before = server.requests.length;
        checkOutcome(await run(browser, last, chance.pick(PLACES), url), model);
        assert.equal(server.requests.length, before);
        await clearStore(browser, last);
        await last.close();
      });
    }
  });
}

/** A bit flipped in every 4 MiB of every file that OPFS has of a model, one at a time. */
export async function browserFlips(tally: Tally, chance: Chance): Promise<void> {
  const model = cacheModel(2, 6 * MIB, 2400);
  const extent = 4 * MIB;
  await inBrowser(async (browser, server) => {
    const url = serve(server, '/m/', model);
    const page = await browser.newPage();
    checkOutcome(await run(browser, page, 'loading worker', url), model);
    for (const nbytes of Object.values(model.files).map(({ length }) => length)) {
      for (let begin = 0; begin < nbytes; begin += extent) {
        const at = begin + chance.below(Math.min(extent, nbytes - begin));
        await tally.case(`bit of byte ${at} of ${nbytes}`, LIMIT_MS, async () => {
          const flipped = await page.evaluateInWorker(flipInOpfs, {
            nbytes,
            at,
            bit: chance.below(8),
          });
          assert.equal(flipped, 1);
          const from = server.requests.length;
          const mended = await run(browser, page, chance.pick(PLACES), url);
          checkOutcome(mended, model);
          const damaged = Math.min(extent, nbytes - begin);
          assert.equal(mended.report?.store?.damagedBytes, damaged);
          assert.equal(mended.report.store.storedBytes, damaged);
          const probes = server.requests.slice(from).filter(({ range }) => range === 'bytes=0-0');
          assert.equal(askedBytes(server, '/m/', model, from) - probes.length, damaged);
          const after = server.requests.length;
          checkOutcome(await run(browser, page, chance.pick(PLACES), url), model);
          assert.equal(server.requests.length, after);
        });
      }
    }
  });
}

/** Flips a bit of the data files that are so long; gives how many there are. */
async function flipInOpfs({
  nbytes,
  at,
  bit,
}: {
  nbytes: number;
  at: number;
  bit: number;
}): Promise<number> {
  interface Handle {
    read(into: Uint8Array, options: { at: number }): number;
    write(from: Uint8Array, options: { at: number }): number;
    getSize(): number;
    close(): void;
  }
  const root = await navigator.storage.getDirectory();
  const models = await (await root.getDirectoryHandle('sluice')).getDirectoryHandle('models');
  let flipped = 0;
  for await (const folder of (
    models as unknown as { values(): AsyncIterable<FileSystemDirectoryHandle> }
  ).values()) {
    for await (const entry of (
      folder as unknown as { values(): AsyncIterable<FileSystemFileHandle> }
    ).values()) {
      if (entry.name === 'journal') continue;
      const file = await (
        entry as unknown as { createSyncAccessHandle(options: object): Promise<Handle> }
      ).createSyncAccessHandle({ mode: 'readwrite-unsafe' });
      if (file.getSize() === nbytes && flipped === 0) {
        const byte = new Uint8Array(1);
        file.read(byte, { at });
        byte[0] = (byte[0] ?? 0) ^ (1 << bit);
        file.write(byte, { at });
        flipped++;
      }
      file.close();
    }
  }
  return flipped;
}

/**
 * A browser whose file handles nobody can share, as those without the mode `readwrite-unsafe`: two workers of different
 * tabs load at once, cold and warm. Each has the right bytes; who cannot open what is stored fetches.
 */
export async function exclusiveHandles(tally: Tally, count: number): Promise<void> {
  const model = cacheModel(2, MIB, 2500);
  await inBrowser(async (browser, server) => {
    const act = async (given: LoadRequest & { origin: string }): Promise<LoadOutcome> => {
      const { prototype } = FileSystemFileHandle as unknown as {
        prototype: { createSyncAccessHandle: (options?: object) => Promise<unknown> };
      };
      const create = Object.getOwnPropertyDescriptor(prototype, 'createSyncAccessHandle')
        ?.value as (typeof prototype)['createSyncAccessHandle'];
      prototype.createSyncAccessHandle = function (this: unknown) {
        return create.call(this);
      };
      const { FileSystemSyncAccessHandle: handle } = globalThis as unknown as {
        FileSystemSyncAccessHandle: { prototype: { mode?: string } };
      };
      delete handle.prototype.mode; // such a browser knows no modes
      const { load } = (await import(
        `${given.origin}/test/browser/page_load.js`
      )) as typeof PageLoad;
      return load(given);
    };
    for (let i = 0; i < count; i++) {
      await tally.case(`handles ${i}`, LIMIT_MS, async () => {
        const url = serve(server, `/${i}/`, model);
        const pages = [await browser.newPage(), await browser.newPage()];
        for (const state of ['cold', 'warm']) {
          const loads = pages.map((page) =>
            page.evaluateInWorker(act, {
              url,
              device: 'cpu' as const,
              options: { store: true },
              dist: `${browser.origin}/dist/`,
              origin: browser.origin,
            }),
          );
          for (const loaded of await Promise.all(loads)) {
            checkOutcome(loaded, model);
            const { problem, readBytes = 0 } = loaded.report?.store ?? {};
            if (state === 'cold') assert.equal(problem, undefined);
            else assert.ok(readBytes >= model.nbytes - PROBES, `${readBytes} bytes of the store`);
            tally.note(`${state}: ${readBytes > 0 ? 'from the store' : 'fetched'}`);
          }
        }
        for (const page of pages) await page.close();
      });
    }
  });
}

/** A quota that is too small for the model, or for a part of it: it loads, says why it is not kept, and later it is. */
export async function quotas(tally: Tally, count: number, chance: Chance): Promise<void> {
  const model = cacheModel(4, 2 * MIB, 2600);
  await inBrowser(async (browser, server) => {
    for (let i = 0; i < count; i++) {
      await tally.case(`quota ${i}`, LIMIT_MS, async () => {
        const folder = `/${i}/`;
        const url = serve(server, folder, model);
        const place = PLACES[i % PLACES.length] ?? 'page';
        const page = await browser.newPage();
        const devtools = await browser.context.newCDPSession(page.page);
        const setQuota = (quotaSize?: number): Promise<unknown> =>
          devtools.send('Storage.overrideQuotaForOrigin', {
            origin: browser.origin,
            ...(quotaSize === undefined ? {} : { quotaSize }),
          });
        await setQuota(1000 + chance.below(model.nbytes));
        const loaded = await run(browser, page, place, url);
        checkOutcome(loaded, model);
        assert.ok(loaded.report?.store?.problem, 'it does not say why nothing is kept');
        tally.note(loaded.report.store.storedBytes > 0 ? 'kept a part' : 'kept nothing');
        await setQuota();
        const next = await run(browser, page, place, url);
        checkOutcome(next, model);
        assert.equal(next.report?.store?.problem, undefined);
        const from = server.requests.length;
        checkOutcome(await run(browser, page, place, url), model);
        assert.equal(server.requests.length, from);
        await clearStore(browser, page);
        await devtools.detach();
        await page.close();
      });
    }
  });
}
