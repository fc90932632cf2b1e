/** Faults of a store on disk: kills, cuts, servers that lie, damage, full disks, several loads at once. */
import assert from 'node:assert/strict';
import {
  copyFile,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Model, openStore, SluiceError, type ErrorCode, type ModelStore } from 'sluice';
import { readJournal } from '../../src/store/journal_slots.js';
import { StoreModule } from '../../src/store/store_module.js';
import { startServer, type Fault, type TestServer } from '../support/server.js';
import { LoadingChild } from './children.js';
import {
  askedBytes,
  cacheModel,
  checkNoLocks,
  checkTensors,
  digestOf,
  each,
  extentsOf,
  fileModel,
  load,
  modelFolder,
  outcome,
  serve,
  storedBytes,
  storeInThread,
  withFolder,
  type Chance,
  type Extent,
  type Subject,
  type SyncFile,
  type Tally,
} from './support.js';

const MIB = 2 ** 20;
const LIMIT_MS = 120_000;
/** Asked beside the bytes themselves: one to learn each file's version, each time. */
const PROBES = 64;

async function withServer(act: (server: TestServer) => Promise<void>): Promise<void> {
  const server = await startServer();
  try {
    await act(server);
  } finally {
    await server.close();
  }
}

async function flipBit(file: string, at: number, bit: number): Promise<void> {
  const bytes = await readFile(file);
  bytes[at] = (bytes[at] ?? 0) ^ (1 << bit);
  await writeFile(file, bytes);
}

/** Loads again, and only what `stored` bytes leave is asked for; then once more, and nothing is. */
async function checkResumes(
  server: TestServer,
  folder: string,
  model: Subject,
  store: ModelStore,
): Promise<void> {
  const url = server.origin + folder + model.name;
  const before = await storedBytes(store);
  const from = server.requests.length;
  const resumed = await load(url, store);
  checkTensors(resumed, model);
  const asked = askedBytes(server, folder, model, from);
  assert.ok(
    asked + before <= model.nbytes + PROBES,
    `${asked} bytes were asked for, ${before} of ${model.nbytes} were stored`,
  );
  const { storedBytes: added = 0, problem } = resumed.report.store ?? {};
  assert.equal(problem, undefined);
  assert.equal(before + added, model.nbytes);
  const asked2 = server.requests.length;
  const warm = await load(url, store);
  checkTensors(warm, model);
  assert.equal(server.requests.length, asked2, 'a whole model was asked for again');
}

/**
 * Kills while a journal is rewritten: SIGKILL with the first bytes of the new one written, none, all, and some between,
 * `cuts` in all, from the first slot to the second and back. What was stored is there, and is asked for by nobody.
 */
export async function compactionKills(tally: Tally, cuts: number): Promise<void> {
  const model = cacheModel(2, 100_000, 300);
  await withServer((server) =>
    withFolder(async (path) => {
      const url = serve(server, '/m/', model);
      const store = await openStore(path);
      checkTensors(await load(url, store), model);
      for (let i = 0; i < 2 * cuts; i++) {
        const folder = await modelFolder(path);
        const [from = '', to = ''] = i % 2 ? ['journal.1', 'journal'] : ['journal', 'journal.1'];
        const compact = await lengthenJournal(store, folder, url);
        const bytes = Math.round((compact * Math.floor(i / 2)) / (cuts - 1));
        await tally.case(`${from} to ${to}, ${bytes} of ${compact} bytes`, LIMIT_MS, async () => {
          const before = await stat(join(folder, from));
          assert.ok(before.size > MIB, `${from} is of ${before.size} bytes`);
          const child = new LoadingChild(url, path, { file: to, bytes });
          await child.go();
          assert.equal(await child.outcome, undefined, 'the process was not killed');
          assert.equal((await stat(join(folder, to))).size, bytes);
          const stored = await storedBytes(store);
          assert.ok(stored >= model.nbytes / 2, `${stored} of ${model.nbytes} bytes are left`);
          tally.note(bytes === compact ? 'whole' : 'cut');
          await checkResumes(server, '/m/', model, store);
          assert.ok((await stat(join(folder, to))).size < MIB, 'the journal was not compacted');
        });
      }
    }),
  );
}

/**
 * Makes a model's journal so long that the next to write compacts it, with one extent less, so that there is one; gives
 * how long it will be then.
 */
async function lengthenJournal(store: ModelStore, folder: string, key: string): Promise<number> {
  const module = await StoreModule.create(await store.platform.module());
  const root = await (await store.platform.openRoot()).folder('models', true);
  const journal = await readJournal(module, await root.folder(basename(folder), false), key);
  assert.ok(journal);
  const { model, slot, bytes } = journal;
  const last = model.snapshot().files.at(-1)?.index ?? 0;
  model.drop(last, 0, 1);
  for (let i = 0; i < 70_000; i++) model.used();
  await writeFile(join(folder, slot), Buffer.concat([bytes, model.journal()]));
  const { byteLength } = model.compact();
  model.free();
  return byteLength;
}

/** Kills of a process that loads: SIGKILL at a random moment, up to three of one store, then a load that resumes. */
export async function processKills(tally: Tally, count: number, chance: Chance): Promise<void> {
  const models = [cacheModel(4, 1.5 * MIB, 100), fileModel(10 * MIB, 200)];
  let kills = 0;
  for (let i = 0; kills < count; i++) {
    const model = chance.pick(models);
    const times = 1 + chance.below(3);
    await tally.case(`store ${i}`, LIMIT_MS, () =>
      withFolder(async (path) => {
        const slow = await startServer();
        const { port } = new URL(slow.origin);
        const store = await openStore(path);
        try {
          const url = serve(slow, '/m/', model);
          for (const file of Object.keys(model.files)) {
            // Some wait for the network, some for the disk
            if (chance.next() < 0.7) {
              slow.addFault({ path: `/m/${file}`, bytesPerSecond: (4 + chance.below(30)) * MIB });
            }
          }
          for (let kill = 0; kill < times; kill++) {
            const child = new LoadingChild(url, path);
            await child.go();
            await sleep(chance.next() * chance.pick([200, 600, 1500]));
            child.kill();
            const ended = await child.outcome;
            if (ended) {
              tally.note('loads that ended first');
              assert.equal(ended.digest, digestOf(model), JSON.stringify(ended.error));
            }
          }
        } finally {
          await slow.close();
        }
        const before = await storedBytes(store);
        if (before === 0) tally.note('nothing was stored yet');
        else if (before === model.nbytes) tally.note('all was stored');
        else tally.note('a part was stored');
        const server = await startServer({ port: Number(port) });
        try {
          serve(server, '/m/', model);
          await checkResumes(server, '/m/', model, store);
        } finally {
          await server.close();
        }
      }),
    );
    kills += times;
  }
  tally.note('kills', kills);
}

/** Connections cut at a random byte: once, several times, or so often that the load fails and the next resumes. */
export async function cuts(tally: Tally, count: number, chance: Chance): Promise<void> {
  const models = [cacheModel(3, MIB, 300), fileModel(9 * MIB, 400)];
  const plans = Array.from({ length: count }, () => {
    const model = chance.pick(models);
    const file = chance.pick(Object.keys(model.files));
    const at = chance.below(model.files[file]?.length ?? 0);
    return {
      model,
      file,
      at,
      times: chance.pick([1, 1, 1, 1, 1, 1, 1, 2, 3, 12]),
      noRange: chance.next() < 0.2,
    };
  });
  await withServer(async (server) => {
    await each(count, 4, (i) =>
      tally.case(`cut ${i}`, LIMIT_MS, () =>
        withFolder(async (path) => {
          const { model, file, at, times, noRange } = plans[i] ?? assert.fail();
          const folder = `/${i}/`;
          const url = serve(server, folder, model);
          const fault = { path: folder + file, noRange };
          server.addFault({ ...fault, cutAt: at, times });
          if (noRange) server.addFault(fault);
          const store = await openStore(path);
          for (let loads = 1; ; loads++) {
            const before = await storedBytes(store);
            const loaded = await outcome(load(url, store));
            if (loaded instanceof Model) {
              checkTensors(loaded, model);
              tally.note(loads === 1 ? 'loaded at once' : 'loaded after a failed load');
              break;
            }
            assert.equal(loaded.code, 'network', loaded.message);
            assert.ok(loads < 12, 'it still does not load');
            assert.ok((await storedBytes(store)) >= before, 'what was stored is lost');
          }
          const asked = server.requests.length;
          checkTensors(await load(url, store), model);
          assert.equal(askedBytes(server, folder, model, asked), 0);
          await checkNoLocks(path);
          for (const name of Object.keys(model.files))
            Reflect.deleteProperty(server.files, folder + name);
        }),
      ),
    );
  });
}

/** What a server that is wrong about ranges or lengths may be answered with. */
const LIES: ErrorCode[] = [
  'http_status',
  'truncated',
  'network',
  'source_changed',
  'size_mismatch',
  'range_out_of_bounds',
  'manifest_invalid',
  'checksum_mismatch',
];

/** Servers that lie about length, ignore Range, or send 206 with another range, for some requests. */
export async function lies(tally: Tally, count: number, chance: Chance): Promise<void> {
  const models = [
    cacheModel(3, MIB / 2, 500),
    fileModel(5 * MIB, 600),
    cacheModel(2, MIB / 2, 550, false),
  ];
  const kinds: Record<string, (size: number) => Partial<Fault>> = {
    'ignores Range': () => ({ noRange: true }),
    'ignores Range and tells no length': () => ({ noRange: true, noLength: true }),
    'ends early and says so': (size) => ({ endAfter: chance.below(size) }),
    'ends early, tells no length': (size) => ({
      endAfter: chance.below(size),
      noLength: true,
      noRange: true,
    }),
    'promises more than it sends': (size) => ({
      headers: { 'Content-Length': String(size + 1 + chance.below(99)) },
      cutAfter: size,
    }),
    'sends more than it has': () => ({
      longerBy: 1 + chance.below(5000),
      noLength: true,
      noRange: true,
    }),
    'sends more than it promised': () => ({ longerBy: 1 + chance.below(5000) }),
    '206 with a range that begins elsewhere': (size) => ({
      headers: { 'Content-Range': `bytes 1-${size - 1}/${size}` },
    }),
    '206 with a range that ends elsewhere': (size) => ({
      headers: { 'Content-Range': `bytes 0-${chance.below(size)}/${size}` },
    }),
    '206 with another size': (size) => ({
      headers: { 'Content-Range': `bytes 0-${size - 2}/${size - 1}` },
    }),
    '206 without Content-Range': () => ({ headers: { 'Content-Range': null } }),
    '206 with nonsense': () => ({ headers: { 'Content-Range': 'bytes */x' } }),
  };
  const plans = Array.from({ length: count }, (_, i) => {
    const model = chance.pick(models);
    const file = chance.pick(Object.keys(model.files));
    const kind = Object.keys(kinds)[i % Object.keys(kinds).length] ?? '';
    const fault = kinds[kind]?.(model.files[file]?.length ?? 0) ?? {};
    return {
      model,
      file,
      kind,
      fault: { ...fault, after: chance.below(4), times: chance.pick([1, 1, 2, 5]) },
    };
  });
  await withServer(async (server) => {
    await each(count, 4, (i) => {
      const { model, file, kind, fault } = plans[i] ?? assert.fail();
      return tally.case(`${i}: ${kind}, ${JSON.stringify(fault)} of ${file}`, LIMIT_MS, () =>
        withFolder(async (path) => {
          const folder = `/${i}/`;
          const url = serve(server, folder, model);
          server.addFault({ ...fault, path: folder + file });
          const store = await openStore(path);
          for (let loads = 1; ; loads++) {
            const loaded = await outcome(load(url, store));
            if (loaded instanceof Model) {
              checkTensors(loaded, model);
              tally.note(loads === 1 ? 'loaded at once' : 'loaded after a failed load');
              break;
            }
            assert.ok(LIES.includes(loaded.code), `${loaded.code}: ${loaded.message}`);
            tally.note(loaded.code);
            assert.ok(loads < 8, `it still does not load: ${loaded.message}`);
          }
          checkTensors(await load(url, store), model);
          await checkNoLocks(path);
        }),
      );
    });
  });
}

/** A file that is replaced at a random moment of a load, or between a load that was ended and the next. */
export async function changes(tally: Tally, count: number, chance: Chance): Promise<void> {
  const old = fileModel(9 * MIB, 700);
  const others = [fileModel(9 * MIB, 800), fileModel(6 * MIB, 900), fileModel(11 * MIB, 1000)];
  await withServer(async (server) => {
    for (let i = 0; i < count; i++) {
      await tally.case(`change ${i}`, LIMIT_MS, () =>
        withFolder(async (path) => {
          const folder = `/${i}/`;
          const url = serve(server, folder, old);
          const next = chance.pick(others);
          server.addFault({
            path: `${folder}${old.name}`,
            bytesPerSecond: (10 + chance.below(60)) * MIB,
          });
          const store = await openStore(path);
          const abort = new AbortController();
          const between = chance.next() < 0.5;
          const loading = outcome(load(url, store, { signal: abort.signal }));
          await sleep(chance.next() * 500);
          if (between) {
            abort.abort();
            await loading;
          }
          serve(server, folder, next);
          const first = await loading;
          if (first instanceof Model) {
            // All of it old, or all of it new
            const version =
              first.get('b')?.nbytes === undefined ? old : versionOf(first, [old, next]);
            checkTensors(first, version);
            tally.note(version === old ? 'loaded the old file' : 'loaded the new file');
            if (version === old) {
              await store.delete(url); // whole, so that nobody asks whether there is another
            }
          } else {
            tally.note(first.code);
            if (!between) assert.equal(first.code, 'source_changed', first.message);
            // Where the abort came when all was stored, nobody asks whether there is another
            const kept = (await store.models()).find(({ key }) => key === url);
            if (between && kept?.complete) await store.delete(url);
          }
          checkTensors(await load(url, store), next);
          const asked = server.requests.length;
          checkTensors(await load(url, store), next);
          assert.equal(server.requests.length, asked);
          Reflect.deleteProperty(server.files, `${folder}${old.name}`);
        }),
      );
    }
  });
}

function versionOf(loaded: Model, versions: readonly Subject[]): Subject {
  const tensor = loaded.get('b');
  assert.ok(tensor?.location === 'cpu');
  const { data } = tensor;
  return (
    versions.find(
      ({ tensors }) => Buffer.compare(tensors[1]?.bytes ?? data.subarray(1), data) === 0,
    ) ?? assert.fail('WRONG BYTES: of neither version')
  );
}

/** A bit flipped in every stored extent, one at a time: found, and fetched again alone. */
export async function flips(
  tally: Tally,
  rounds: number,
  chance: Chance,
  models = [cacheModel(3, 5 * MIB, 1100), fileModel(25 * MIB, 1200)],
): Promise<void> {
  await withServer((server) =>
    withFolder(async (path) => {
      for (const [k, model] of models.entries()) {
        const folder = `/${k}/`;
        const url = serve(server, folder, model);
        const store = await openStore(join(path, String(k)));
        checkTensors(await load(url, store), model);
        const stored = await modelFolder(join(path, String(k)));
        for (let round = 0; round < rounds; round++) {
          for (const extent of await extentsOf(store, url)) {
            const at = extent.begin + chance.below(extent.end - extent.begin);
            await tally.case(`bit of byte ${at} of ${extent.path}`, LIMIT_MS, async () => {
              await flipBit(join(stored, extent.file), at, chance.below(8));
              await checkFetchedAlone(server, url, folder, model, store, [extent]);
            });
          }
        }
        await tally.case('a bit of every extent at once', LIMIT_MS, async () => {
          const extents = await extentsOf(store, url);
          for (const { file, begin, end } of extents) {
            await flipBit(join(stored, file), begin + chance.below(end - begin), chance.below(8));
          }
          await checkFetchedAlone(server, url, folder, model, store, extents);
        });
      }
    }),
  );
}

async function checkFetchedAlone(
  server: TestServer,
  url: string,
  folder: string,
  model: Subject,
  store: ModelStore,
  damaged: readonly Extent[],
): Promise<void> {
  const from = server.requests.length;
  const mended = await load(url, store);
  checkTensors(mended, model);
  const nbytes = damaged.reduce((sum, { begin, end }) => sum + end - begin, 0);
  assert.equal(mended.report.store?.damagedBytes, nbytes);
  assert.equal(mended.report.store.storedBytes, nbytes);
  assert.equal(mended.report.store.problem, undefined);
  // And a byte of each other file, to learn whether it is still the one that is stored
  const asked = server.requests.slice(from).map(({ range }) => range);
  const probes = asked.filter((range) => range === 'bytes=0-0').length;
  assert.ok(probes < Object.keys(model.files).length);
  assert.equal(askedBytes(server, folder, model, from) - probes, nbytes, asked.join());
  if (damaged.length === 1) assert.equal(asked.length - probes, 1, asked.join());
  const after = server.requests.length;
  const warm = await load(url, store);
  checkTensors(warm, model);
  assert.equal(warm.report.store?.damagedBytes, 0);
  assert.equal(server.requests.length, after);
}

/** Data files that are cut off, deleted, swapped, emptied or replaced; a journal that is gone. */
export async function damagedFiles(tally: Tally, count: number, chance: Chance): Promise<void> {
  const model = cacheModel(4, MIB, 1300);
  await withServer((server) =>
    withFolder(async (path) => {
      const url = serve(server, '/m/', model);
      const store = await openStore(path);
      checkTensors(await load(url, store), model);
      const folder = await modelFolder(path);
      const acts: Record<string, (file: string, other: string) => Promise<void>> = {
        'cut off': async (file) => truncate(file, chance.below((await stat(file)).size)),
        emptied: (file) => truncate(file, 0),
        deleted: (file) => rm(file),
        'made longer': async (file) =>
          truncate(file, (await stat(file)).size + 1 + chance.below(MIB)),
        swapped: async (file, other) => {
          await rename(file, `${file}.x`);
          await rename(other, file);
          await rename(`${file}.x`, other);
        },
        'replaced by another': (file, other) => copyFile(other, file),
      };
      for (let i = 0; i < count; i++) {
        const what = Object.keys(acts)[i % Object.keys(acts).length] ?? '';
        await tally.case(`${i}: a file ${what}`, LIMIT_MS, async () => {
          const files = (await readdir(folder)).filter((name) => i % 5 === 0 || name !== 'journal');
          const [first = '', second = ''] = files.sort(() => chance.next() - 0.5);
          await acts[what]?.(join(folder, first), join(folder, second));
          tally.note(what);
          const mended = await load(url, store);
          checkTensors(mended, model);
          assert.equal(mended.report.store?.problem, undefined);
          const asked = server.requests.length;
          checkTensors(await load(url, store), model);
          assert.equal(server.requests.length, asked);
        });
      }
    }),
  );
}

/** The journal cut at every byte, and with a bit flipped at every byte; `step` takes every step-th. */
export async function journals(tally: Tally, step: number, chance: Chance): Promise<void> {
  const model = cacheModel(3, 40_000, 1400);
  await withServer((server) =>
    withFolder(async (path) => {
      const url = serve(server, '/m/', model);
      const store = await storeInThread(path);
      checkTensors(await load(url, store), model);
      const journal = join(await modelFolder(path), 'journal');
      const whole = await readFile(journal);
      tally.note('bytes of the journal', whole.length);
      const first = chance.below(step);
      for (let at = first; at < whole.length; at += step) {
        for (const what of ['cut', 'bit'] as const) {
          await tally.case(`${what} at ${at}`, LIMIT_MS, async () => {
            if (what === 'cut') {
              await writeFile(journal, whole.subarray(0, at));
            } else {
              await writeFile(journal, whole);
              await flipBit(journal, at, chance.below(8));
            }
            await checkResumes(server, '/m/', model, store);
          });
        }
      }
    }),
  );
}

/** Disk errors: from the n-th operation on, or that one alone, for every n until none is met. */
export async function diskErrors(
  tally: Tally,
  code: 'quota_exceeded' | 'io',
  operations: readonly ('read' | 'write' | 'truncate' | 'flush' | 'size')[],
  models = [cacheModel(3, 60_000, 1500), fileModel(5 * MIB, 1600)],
): Promise<void> {
  await withServer(async (server) => {
    for (const [k, model] of models.entries()) {
      const url = serve(server, `/${k}/`, model);
      for (const once of [true, false]) {
        for (const warm of [false, true]) {
          // Until an operation is none that a load needs
          const last = { met: true };
          for (let n = 1; last.met; n++) {
            await tally.case(
              `${code} at operation ${n}, ${once ? 'once' : 'from then on'}, ${warm ? 'warm' : 'cold'}`,
              LIMIT_MS,
              () =>
                withFolder(async (path) => {
                  const good = await storeInThread(path);
                  if (warm) checkTensors(await load(url, good), model);
                  let count = 0;
                  const fail = (operation: (typeof operations)[number]): void => {
                    if (!operations.includes(operation)) return;
                    count++;
                    if (once ? count === n : count >= n)
                      throw new SluiceError(code, `operation ${n} of the disk fails`);
                  };
                  const bad = await storeInThread(path, (file) => failing(file, fail));
                  const loaded = await outcome(load(url, bad));
                  last.met = count >= n;
                  if (loaded instanceof Model) {
                    checkTensors(loaded, model);
                    const { problem } = loaded.report.store ?? {};
                    tally.note(
                      problem === undefined ? 'loaded, all stored' : 'loaded, said why not stored',
                    );
                    if (last.met && !warm) assert.match(problem ?? '', /of the disk fails/);
                  } else {
                    // Bytes that were given out already and cannot be read after all
                    assert.ok(
                      code === 'io' && loaded.code === 'io',
                      `${loaded.code}: ${loaded.message}`,
                    );
                    tally.note(loaded.code);
                  }
                  await checkNoLocks(path);
                  checkTensors(await load(url, good), model);
                  const asked = server.requests.length;
                  checkTensors(await load(url, good), model);
                  assert.equal(server.requests.length, asked);
                }),
            );
            assert.ok(n < 2000);
          }
        }
      }
    }
  });
}

function failing(
  file: SyncFile,
  fail: (operation: 'read' | 'write' | 'truncate' | 'flush' | 'size') => void,
): SyncFile {
  return {
    read(into, at) {
      fail('read');
      return file.read(into, at);
    },
    write(from, at) {
      fail('write');
      file.write(from, at);
    },
    truncate(nbytes) {
      fail('truncate');
      file.truncate(nbytes);
    },
    size() {
      fail('size');
      return file.size();
    },
    flush() {
      fail('flush');
      file.flush();
    },
    close() {
      file.close();
    },
  };
}

/** Two and three processes that load one model at once, in some cases with one killed: one download in all. */
export async function processesAtOnce(tally: Tally, count: number, chance: Chance): Promise<void> {
  const models = [cacheModel(3, 2 * MIB, 1700), fileModel(10 * MIB, 1800)];
  for (let i = 0; i < count; i++) {
    await tally.case(`together ${i}`, LIMIT_MS, () =>
      withServer((server) =>
        withFolder(async (path) => {
          const model = chance.pick(models);
          const url = serve(server, '/m/', model);
          for (const file of Object.keys(model.files)) {
            server.addFault({ path: `/m/${file}`, bytesPerSecond: 20 * MIB });
          }
          const children = Array.from({ length: 2 + (i % 2) }, () => new LoadingChild(url, path));
          await Promise.all(children.map((child) => child.go()));
          const killed = i % 4 >= 2 ? chance.pick(children) : undefined;
          if (killed) {
            await sleep(chance.next() * 600);
            killed.kill();
          }
          let fetched = 0;
          for (const child of children) {
            const ended = await child.outcome;
            if (!ended) continue;
            assert.equal(ended.digest, digestOf(model), JSON.stringify(ended));
            assert.equal(ended.store?.problem, undefined);
            fetched += ended.store?.storedBytes ?? 0;
          }
          const asked = askedBytes(server, '/m/', model);
          // What the killed one had under way is fetched again: an extent of each transfer, at most
          const slack = killed ? 4 * 4 * MIB : 0;
          assert.ok(
            asked <= model.nbytes + PROBES + slack,
            `${asked} bytes asked, the model has ${model.nbytes}`,
          );
          if (!killed) assert.equal(fetched, model.nbytes);
          tally.note(killed ? 'one of them killed' : `${children.length} at once`);
          const store = await openStore(path);
          const before = server.requests.length;
          checkTensors(await load(url, store), model);
          assert.equal(server.requests.length, before);
        }),
      ),
    );
  }
}

/** Several loads in one process, of which some are aborted at a random moment. */
export async function loadsAtOnce(tally: Tally, count: number, chance: Chance): Promise<void> {
  const model = cacheModel(3, MIB, 1900);
  for (let i = 0; i < count; i++) {
    await tally.case(`loads ${i}`, LIMIT_MS, () =>
      withServer((server) =>
        withFolder(async (path) => {
          const url = serve(server, '/m/', model);
          for (const file of Object.keys(model.files)) {
            server.addFault({ path: `/m/${file}`, bytesPerSecond: 30 * MIB });
          }
          const store = await openStore(path);
          const budgetBytes = chance.pick([100_000, 2 ** 20, 2 ** 26]);
          const loads = Array.from({ length: 2 + chance.below(3) }, () => {
            const abort = new AbortController();
            const aborts = chance.next() < 0.4;
            const delay = chance.next() * 400;
            const loading = outcome(load(url, store, { signal: abort.signal, budgetBytes }));
            return { abort, aborts, delay, loading };
          });
          for (const { abort, aborts, delay, loading } of loads) {
            if (!aborts) continue;
            void sleep(delay).then(async () => {
              const since = performance.now();
              abort.abort();
              await loading;
              if (performance.now() - since > 2000) tally.note('slow to abort');
            });
          }
          for (const { aborts, loading } of loads) {
            const loaded = await loading;
            if (loaded instanceof Model) {
              checkTensors(loaded, model);
              tally.note('loaded');
            } else {
              assert.ok(aborts && loaded.code === 'aborted', loaded.message);
              tally.note('aborted');
            }
          }
          await checkNoLocks(path);
          await checkResumes(server, '/m/', model, store);
        }),
      ),
    );
  }
}
