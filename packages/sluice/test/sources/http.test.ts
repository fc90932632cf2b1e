import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';
import { SluiceError } from '../../src/errors.js';
import {
  HttpSource,
  fetchTransport,
  splitFileUrl,
  type HttpSourceOptions,
} from '../../src/sources/http.js';
import { nodeHttpTransport } from '../../src/sources/node_http.js';
import {
  patternBytes,
  startServer,
  type Fault,
  type FileSpec,
  type TestServer,
} from '../support/server.js';
import { readAll, rejects, sameBytes, until } from './support.js';

const SIZE = 300_000;
const SEED = 5;
const FILE: FileSpec = { nbytes: SIZE, seed: SEED };
const bytes = (begin: number, end: number) => patternBytes(SEED, begin, end);

const unhandled: unknown[] = [];
process.on('unhandledRejection', (reason) => unhandled.push(reason));

const transports = { fetch: fetchTransport, 'node:http': nodeHttpTransport };

for (const [name, makeTransport] of Object.entries(transports)) {
  describe(`HttpSource over ${name}`, () => {
    let server: TestServer;
    let other: TestServer;
    const sources: HttpSource[] = [];
    let fresh = 0;

    before(async () => {
      server = await startServer();
      other = await startServer();
    });
    after(async () => {
      await server.close();
      await other.close();
      assert.deepEqual(unhandled, []);
    });
    afterEach(async () => {
      for (const source of sources.splice(0)) source.close();
      await until(
        () => server.openResponses + other.openResponses === 0,
        'all responses are closed',
      );
    });

    function source(options: HttpSourceOptions = {}, folder = `${server.origin}/m/`): HttpSource {
      const made = new HttpSource(folder, { transport: makeTransport(), ...options });
      sources.push(made);
      return made;
    }

    /** A file of its own for each case: its path in the folder, and on the server. */
    function file(fault: Omit<Fault, 'path'> | undefined, spec: FileSpec = FILE, on = server) {
      const path = `file ${fresh++}.bin`;
      const at = `/m/${path}`;
      on.files[at] = spec;
      if (fault) on.addFault({ path: at, ...fault });
      return { path, at, requests: () => on.requests.filter((request) => request.path === at) };
    }

    describe('ranges by encoding by what the server can', () => {
      const servers: [string, Omit<Fault, 'path'>][] = [
        ['Range', {}],
        ['no Range', { noRange: true }],
        ['Range, no Content-Length', { noLength: true }],
        ['no Range, no Content-Length', { noRange: true, noLength: true }],
        ['gzip', { encoding: 'gzip' }],
        ['br', { encoding: 'br' }],
        ['deflate', { encoding: 'deflate' }],
      ];
      const ranges: [number, number | undefined][] = [
        [0, undefined],
        [0, SIZE],
        [0, 1],
        [1, 2],
        [100_001, 233_333],
        [SIZE - 1, SIZE],
        [SIZE - 70_000, undefined],
        [SIZE - 10, SIZE + 500],
      ];
      for (const [what, fault] of servers) {
        for (const [begin, end] of ranges) {
          test(`${what}: [${begin}, ${end ?? 'end'})`, async () => {
            const { path, requests } = file(fault);
            const stream = await source().open(path, begin, end);
            const all = await readAll(stream);
            const whole = fault.noRange || fault.encoding;
            const [from, to] = whole ? [0, SIZE] : [begin, Math.min(end ?? SIZE, SIZE)];
            assert.equal(stream.begin, from);
            sameBytes(all, bytes(from, to));
            assert.equal(await stream.read(), null);

            const ranged = begin > 0 || end !== undefined;
            const known = !fault.encoding && !(fault.noLength && (whole || !ranged));
            assert.equal(stream.fileBytes, known ? SIZE : undefined);
            const asked = ranged ? `bytes=${begin}-${end === undefined ? '' : end - 1}` : undefined;
            assert.deepEqual(
              requests().map((request) => request.range),
              [asked],
            );
            const accepts = requests()[0]?.headers['accept-encoding'] ?? '';
            assert.equal(/gzip/.test(accepts), !ranged, `Accept-Encoding: ${accepts}`);
          });
        }
      }
      test('an empty range asks nothing', async () => {
        const { path, requests } = file(undefined);
        const stream = await source().open(path, 7, 7);
        assert.equal(await stream.read(), null);
        assert.equal(requests().length, 0);
      });
      test('an empty file', async () => {
        const { path } = file(undefined, '');
        const stream = await source().open(path, 0, undefined);
        assert.equal(stream.fileBytes, 0);
        assert.equal(await stream.read(), null);
      });
    });

    test('several streams at once, held open together', async () => {
      const { path } = file(undefined, { nbytes: 8_000_000, seed: 9 });
      const from = source();
      const parts = await Promise.all(
        [0, 1, 2, 3].map((i) => from.open(path, i * 2_000_000, (i + 1) * 2_000_000)),
      );
      const all = await Promise.all(parts.map(readAll));
      sameBytes(Buffer.concat(all), patternBytes(9, 0, 8_000_000));
    });

    test('connections are used again', async () => {
      const { path } = file(undefined);
      const from = source();
      for (let at = 0; at < 100_000; at += 10_000)
        sameBytes(await readAll(await from.open(path, at, at + 10_000)), bytes(at, at + 10_000));
      const ports = new Set(server.requests.slice(-10).map((request) => request.remotePort));
      assert.ok(ports.size <= 3, `${ports.size} connections for 10 requests in a row`);
    });

    test('arguments that are no range', async () => {
      const { path } = file(undefined);
      for (const [begin, end] of [
        [-1, 5],
        [5, 4],
        [0.5, 2],
        [0, 1.5],
        [NaN, 1],
        [0, Infinity],
        [2 ** 53, undefined],
      ] as [number, number | undefined][]) {
        await rejects(
          source().open(path, begin, end),
          'invalid_argument',
          path.replace(' ', '%20'),
          String(begin),
        );
      }
    });

    describe('status codes', () => {
      const cases: [number, string, boolean][] = [
        [404, 'not_found', false],
        [410, 'not_found', false],
        [401, 'http_status', false],
        [403, 'http_status', false],
        [400, 'http_status', false],
        [204, 'http_status', false],
        [304, 'http_status', false],
        [302, 'http_status', false],
        [408, 'http_status', true],
        [425, 'http_status', true],
        [429, 'http_status', true],
        [500, 'http_status', true],
        [503, 'http_status', true],
      ];
      for (const [status, code, retryable] of cases) {
        test(`${status} is ${code}`, async () => {
          const { path } = file({ status, headers: { 'Content-Type': null } });
          const error = await rejects(
            source().open(path, 0, 10),
            code as 'http_status',
            `${server.origin}/m/${encodeURIComponent(path)}`,
            String(status),
          );
          assert.equal(error.status, status);
          assert.equal(error.retryable, retryable);
          if (status === 401 || status === 403 || status === 404) assert.ok(error.hint);
        });
      }
      test('500, then success', async () => {
        const { path } = file({ status: 500, times: 1 });
        const from = source();
        assert.ok((await rejects(from.open(path, 10, 20), 'http_status')).retryable);
        sameBytes(await readAll(await from.open(path, 10, 20)), bytes(10, 20));
      });
      test('Retry-After: seconds, a date, capped, nonsense', async () => {
        const retryAfter = async (value: string) => {
          const { path } = file({ status: 429, headers: { 'Retry-After': value } });
          return (await rejects(source().open(path, 0, 10), 'http_status')).retryAfterMs;
        };
        assert.equal(await retryAfter('7'), 7000);
        assert.equal(await retryAfter('0'), 0);
        assert.equal(await retryAfter('999999999999'), 300_000);
        assert.equal(await retryAfter('soon'), undefined);
        assert.equal(await retryAfter('Wed, 21 Oct 2015 07:28:00 GMT'), 0);
        const inTen = (await retryAfter(new Date(Date.now() + 10_000).toUTCString())) ?? NaN;
        assert.ok(inTen > 5000 && inTen <= 10_000, String(inTen));
      });
      test('416 names the range and the size', async () => {
        const { path } = file(undefined);
        const error = await rejects(
          source().open(path, SIZE, SIZE + 5),
          'range_out_of_bounds',
          `[${SIZE}, ${SIZE + 5})`,
          `has ${SIZE} bytes`,
        );
        assert.equal(error.actual, SIZE);
        assert.equal(error.retryable, false);
      });
    });

    describe('Content-Range', () => {
      const wrong: [string, string | null][] = [
        ['another place', 'bytes 101-199/300000'],
        ['longer than asked', 'bytes 100-200/300000'],
        ['ends before it begins', 'bytes 100-99/300000'],
        ['past its own size', 'bytes 100-199/150'],
        ['another unit', 'lines 100-199/300000'],
        ['trailing text', 'bytes 100-199/300000 '.concat('x')],
        ['negative', 'bytes -100-199/300000'],
        ['fraction', 'bytes 100.0-199/300000'],
        ['beyond 2^53', 'bytes 100-199/99999999999999999999'],
        ['none', null],
      ];
      for (const [what, header] of wrong) {
        test(`refused: ${what}`, async () => {
          const { path } = file({ headers: { 'Content-Range': header } });
          const error = await rejects(
            source().open(path, 100, 200),
            'http_status',
            'bytes 100-199',
            header ?? 'no Content-Range',
          );
          assert.equal(error.retryable, false);
        });
      }
      test('refused: a multipart body', async () => {
        const { path } = file({ headers: { 'Content-Type': 'multipart/byteranges; boundary=x' } });
        await rejects(source().open(path, 100, 200), 'http_status', 'multipart');
      });
      test('refused: a compressed range', async () => {
        const { path } = file({ headers: { 'Content-Encoding': 'gzip' } });
        await rejects(source().open(path, 100, 200), 'http_status', 'gzip');
      });
      test('an unknown size', async () => {
        const { path } = file({ headers: { 'Content-Range': 'bytes 100-199/*' } });
        const stream = await source().open(path, 100, 200);
        assert.equal(stream.fileBytes, undefined);
        sameBytes(await readAll(stream), bytes(100, 200));
      });
      test('a shorter range than asked is taken for what it says', async () => {
        const { path } = file({
          headers: { 'Content-Range': `bytes 100-149/${SIZE}` },
          endAfter: 50,
        });
        sameBytes(await readAll(await source().open(path, 100, 200)), bytes(100, 150));
      });
    });

    describe('bodies', () => {
      test('a range longer than promised is cut off', async () => {
        for (const noLength of [false, true]) {
          const { path } = file({ longerBy: 5000, noLength });
          sameBytes(await readAll(await source().open(path, 100, 20_000)), bytes(100, 20_000));
        }
      });
      test('a range that ends early, cleanly', async () => {
        const { path } = file({ endAfter: 1000 });
        const stream = await source().open(path, 100, 20_000);
        const error = await rejects(
          readAll(stream),
          'truncated',
          '1000 of 19900 bytes',
          'offset 100',
        );
        assert.deepEqual([error.expected, error.actual, error.retryable], [19_900, 1000, true]);
      });
      test('a connection cut in the middle', async () => {
        for (const [begin, end, noLength] of [
          [0, undefined, false],
          [50, 250_000, false],
          [50, 250_000, true],
          [0, undefined, true],
        ] as const) {
          const { path } = file({ cutAfter: 100_000, noLength });
          const stream = await source().open(path, begin, end);
          const error = await rejects(
            readAll(stream),
            'network',
            path.replace(' ', '%20'),
            `offset ${begin}`,
          );
          assert.equal(error.retryable, true);
        }
      });
      test('a connection cut before the headers', async () => {
        const { path } = file({ cutAfter: 0 });
        const opened = source().open(path, 5, 10);
        const error = await rejects(
          opened.then((stream) => readAll(stream)),
          'network',
        );
        assert.equal(error.retryable, true);
      });
      test('a compressed body that is cut', async () => {
        const { path } = file({ encoding: 'gzip', cutAfter: 150_000 });
        const error = await rejects(source().open(path, 0, undefined).then(readAll), 'network');
        assert.equal(error.retryable, true);
      });
      test('a body that is not what its encoding says', async () => {
        const { path } = file({ noRange: true, headers: { 'Content-Encoding': 'gzip' } });
        await rejects(source().open(path, 0, undefined).then(readAll), 'network');
      });
      test('whoever does not read stops the server', async () => {
        const { path } = file(undefined, { nbytes: 2 ** 30, seed: 1 });
        const stream = await source().open(path, 0, undefined);
        await stream.read();
        const before = process.memoryUsage().arrayBuffers;
        await new Promise((next) => setTimeout(next, 200));
        assert.ok(process.memoryUsage().arrayBuffers - before < 8 * 2 ** 20);
        stream.cancel();
      });
    });

    describe('stalls and aborts', () => {
      const stallTimeoutMs = 60;
      test('a stall before the headers', async () => {
        const { path } = file({ stallHeaders: true });
        const error = await rejects(
          source({ stallTimeoutMs }).open(path, 0, 10),
          'network',
          '0.06 s',
          path.replace(' ', '%20'),
        );
        assert.equal(error.retryable, true);
      });
      test('a stall in the body', async () => {
        const { path } = file({ stallAfter: 1000 });
        const stream = await source({ stallTimeoutMs }).open(path, 10, 50_000);
        const error = await rejects(
          readAll(stream),
          'network',
          '0.06 s',
          '1000 bytes after offset 10',
        );
        assert.equal(error.retryable, true);
        await rejects(stream.read(), 'network');
      });
      test('a stall after the last byte that was asked is nothing to the caller', async () => {
        const { path } = file({ stallAfter: 1000, longerBy: 10 });
        sameBytes(
          await readAll(await source({ stallTimeoutMs }).open(path, 0, 1000)),
          bytes(0, 1000),
        );
      });
      test('a timeout without end, or beyond what a timer takes, gives nothing up', async () => {
        for (const stallTimeoutMs of [Infinity, 1e12]) {
          const { path } = file({ bytesPerSecond: 50_000 });
          sameBytes(
            await readAll(await source({ stallTimeoutMs }).open(path, 0, 5_000)),
            bytes(0, 5_000),
          );
        }
      });
      test('reads into what it is given, where it can', async () => {
        const { path } = file(undefined);
        const stream = await source().open(path, 1000, SIZE);
        const parts: Uint8Array[] = [];
        for (let got = 1000; got < SIZE;) {
          const into = new Uint8Array(new ArrayBuffer(70_000), 0, 65_000);
          const chunk = await stream.read(into);
          assert.ok(chunk && chunk.byteLength > 0);
          // Taken, or left alone
          assert.equal(into.buffer.byteLength, name === 'fetch' ? 0 : 70_000);
          if (name === 'fetch') {
            assert.ok(chunk.byteLength <= 65_000 && chunk.byteOffset === 0);
            assert.equal(chunk.buffer.byteLength, 70_000);
          }
          parts.push(chunk.slice());
          got += chunk.byteLength;
        }
        assert.equal(await stream.read(new Uint8Array(10)), null);
        sameBytes(Buffer.concat(parts), bytes(1000, SIZE));
      });
      test('knows whether responses are held in memory before they are read', async () => {
        const from = source();
        const buffers = name === 'fetch';
        assert.equal(from.unbuffered, !buffers);
        const plain = file(undefined);
        (await from.open(plain.path, 0, 10)).cancel();
        assert.equal(from.unbuffered, !buffers);
        const { path } = file({ headers: { 'cache-control': 'private, No-Store' } });
        (await from.open(path, 0, 10)).cancel();
        assert.equal(from.unbuffered, true);
      });
      test('a slow server is no stall', async () => {
        const { path } = file({ bytesPerSecond: 50_000 });
        sameBytes(
          await readAll(await source({ stallTimeoutMs: 100 }).open(path, 0, 10_000)),
          bytes(0, 10_000),
        );
      });
      test('a slow caller is no stall', async () => {
        const { path } = file(undefined);
        const stream = await source({ stallTimeoutMs: 20 }).open(path, 0, SIZE);
        const first = (await stream.read())?.slice() ?? new Uint8Array();
        await new Promise((next) => setTimeout(next, 100));
        sameBytes(Buffer.concat([first, await readAll(stream)]), bytes(0, SIZE));
      });
      test('the signal ends what is open and what is being opened', async () => {
        const held = file({ stallAfter: 1000 });
        const opening = file({ stallHeaders: true });
        const controller = new AbortController();
        const from = source({ signal: controller.signal });
        const stream = await from.open(held.path, 0, undefined);
        await stream.read();
        const reading = stream.read();
        const opened = from.open(opening.path, 0, undefined);
        await until(() => opening.requests().length === 1, 'the second request is under way');
        const why = new Error('left the page');
        controller.abort(why);
        assert.equal((await rejects(reading, 'aborted', held.path.replace(' ', '%20'))).cause, why);
        assert.equal((await rejects(opened, 'aborted')).retryable, false);
        await rejects(from.open(held.path, 0, 1), 'aborted');
        await until(() => server.openResponses === 0, 'the server sees the connections end');
      });
      test('a signal that is aborted already', async () => {
        const { path, requests } = file(undefined);
        await rejects(source({ signal: AbortSignal.abort() }).open(path, 0, 1), 'aborted');
        assert.equal(requests().length, 0);
      });
      test('close() ends everything, twice too', async () => {
        const { path } = file({ stallAfter: 1000 });
        const from = source();
        const streams = await Promise.all([0, 1, 2].map((i) => from.open(path, i, undefined)));
        const reads = streams.map(readAll);
        from.close();
        from.close();
        for (const read of reads) await rejects(read, 'aborted');
        await until(() => server.openResponses === 0, 'the server sees the connections end');
      });
      test('cancel() ends one stream, at any time and more than once', async () => {
        const { path } = file(undefined, { nbytes: 2 ** 30, seed: 1 });
        const from = source();
        const stream = await from.open(path, 0, undefined);
        const unread = await from.open(path, 5, undefined);
        await stream.read();
        stream.cancel();
        stream.cancel();
        unread.cancel();
        await rejects(stream.read(), 'aborted');
        await until(() => server.openResponses === 0, 'the server sees the connections end');
        const done = await from.open(path, 0, 10);
        await readAll(done);
        done.cancel();
        assert.equal(await done.read(), null);
      });
      test('a read under way when cancel() comes', async () => {
        const { path } = file({ stallAfter: 1000 });
        const stream = await source().open(path, 0, undefined);
        await stream.read();
        const reading = stream.read();
        stream.cancel();
        await rejects(reading, 'aborted');
      });
    });

    describe('the network', () => {
      test('a refused connection', async () => {
        const gone = await startServer();
        await gone.close();
        const error = await rejects(
          source({}, gone.origin).open('a.bin', 0, 1),
          'network',
          `${gone.origin}/a.bin`,
          'ECONNREFUSED',
        );
        assert.equal(error.retryable, true);
        assert.ok(error.hint);
      });
      test('an idle connection that the server has closed is replaced', async () => {
        const { path } = file(undefined);
        const from = source();
        await readAll(await from.open(path, 0, 10));
        server.dropIdle();
        sameBytes(await readAll(await from.open(path, 10, 20)), bytes(10, 20));
      });
    });

    describe('redirects', () => {
      const secret = { 'X-Secret': 'a', Authorization: 'Bearer b' };
      for (const status of [301, 302, 303, 307, 308]) {
        test(`${status} to the same origin keeps Range and headers`, async () => {
          const target = file(undefined);
          const { path } = file({ redirect: encodeURI(target.at), status });
          sameBytes(
            await readAll(await source({ headers: secret }).open(path, 100, 200)),
            bytes(100, 200),
          );
          const request = target.requests()[0];
          assert.equal(request?.range, 'bytes=100-199');
          assert.equal(request.headers['x-secret'], 'a');
          assert.equal(request.headers.authorization, 'Bearer b');
        });
      }
      for (const headers of [secret, { Authorization: 'Bearer b' }, undefined]) {
        const names = Object.keys(headers ?? {}).join(' and ') || 'no header';
        test(`to another origin, with ${names}: none of it arrives there`, async () => {
          const target = file(undefined, FILE, other);
          const { path, requests } = file({ redirect: other.origin + encodeURI(target.at) });
          const from = source(headers ? { headers } : {});
          sameBytes(await readAll(await from.open(path, 100, 200)), bytes(100, 200));
          assert.equal(requests()[0]?.headers.authorization, headers?.Authorization);
          const request = target.requests()[0];
          assert.equal(request?.range, 'bytes=100-199');
          assert.equal(request.headers['x-secret'], undefined);
          assert.equal(request.headers.authorization, undefined);
        });
      }
      test('to another origin and back: the headers stay away', async () => {
        const target = file(undefined);
        const away = file({ redirect: server.origin + encodeURI(target.at) }, FILE, other);
        const { path } = file({ redirect: other.origin + encodeURI(away.at) });
        await readAll(await source({ headers: secret }).open(path, 0, 10));
        assert.equal(target.requests()[0]?.headers['x-secret'], undefined);
        assert.equal(target.requests()[0]?.headers.authorization, undefined);
      });
      test('in a circle', async () => {
        const path = `circle${fresh++}`;
        file(undefined);
        server.addFault({ path: `/m/${path}`, redirect: `/m/${path}` });
        await rejects(
          source({ headers: secret }).open(path, 0, 10),
          'http_status',
          '20 redirects',
          path,
        );
      });
      test('to what is no http URL', async () => {
        const { path } = file({ redirect: 'ftp://127.0.0.1/x' });
        await rejects(source({ headers: secret }).open(path, 0, 10), 'http_status', 'ftp:');
      });
    });

    describe('a file that changes', () => {
      const changes: [string, Omit<Fault, 'path'>, string[]][] = [
        ['ETag', { headers: { ETag: '"new"' } }, ['"new"', '"pattern-5-300000"']],
        [
          'size',
          { replace: { nbytes: SIZE + 1, seed: SEED }, headers: { ETag: null } },
          ['300000', '300001'],
        ],
        [
          'content',
          { replace: { nbytes: SIZE, seed: 77 } },
          ['"pattern-5-300000"', '"pattern-77-300000"'],
        ],
      ];
      for (const [what, fault, parts] of changes) {
        test(`another ${what}`, async () => {
          const { path } = file({ ...fault, after: 1 });
          const from = source();
          await readAll(await from.open(path, 0, 100));
          const error = await rejects(from.open(path, 100, 200), 'source_changed', ...parts);
          assert.equal(error.retryable, false);
          assert.ok(error.hint);
        });
      }
      test('another Last-Modified, without ETags', async () => {
        const { path, at } = file({
          times: 1,
          headers: { ETag: null, 'Last-Modified': 'Wed, 21 Oct 2015 07:28:00 GMT' },
        });
        server.addFault({
          path: at,
          headers: { ETag: null, 'Last-Modified': 'Wed, 21 Oct 2015 07:29:00 GMT' },
        });
        const from = source();
        await readAll(await from.open(path, 0, 100));
        await rejects(from.open(path, 100, 200), 'source_changed', '07:28:00', '07:29:00');
      });
      test('no alarm: weak ETags, a Last-Modified of now, an ETag of its own for gzip', async () => {
        const weak = file({ times: 1, headers: { ETag: 'W/"a"' } });
        server.addFault({ path: weak.at, headers: { ETag: 'W/"b"' } });
        const modified = file({
          times: 1,
          headers: { ETag: null, 'Last-Modified': new Date().toUTCString() },
        });
        server.addFault({
          path: modified.at,
          headers: { ETag: null, 'Last-Modified': new Date(Date.now() + 60_000).toUTCString() },
        });
        const gzip = file({ times: 1, encoding: 'gzip' });
        const from = source();
        for (const { path } of [weak, modified, gzip]) {
          await readAll(await from.open(path, 0, undefined));
          await readAll(await from.open(path, 100, 200));
        }
      });
      test('files are told apart', async () => {
        const one = file(undefined);
        const two = file(undefined, { nbytes: 99, seed: 3 });
        const from = source();
        await readAll(await from.open(one.path, 0, 10));
        await readAll(await from.open(two.path, 0, 10));
      });
    });

    describe('paths and URLs', () => {
      test('segments are encoded', async () => {
        const path = 'sub folder/ü?#%2e&=+.bin';
        server.files[`/m/${path}`] = FILE;
        const from = source();
        sameBytes(await readAll(await from.open(path, 0, 10)), bytes(0, 10));
        assert.equal(
          from.describe(path),
          `${server.origin}/m/sub%20folder/%C3%BC%3F%23%252e%26%3D%2B.bin`,
        );
      });
      for (const path of [
        '',
        '.',
        '..',
        '../x',
        'a/../../x',
        '/x',
        '//127.0.0.1:1/x',
        'a/..',
        '../mm/x',
        '\ud800',
      ]) {
        test(`refused: ${JSON.stringify(path)}`, async () => {
          const before = server.requests.length;
          await rejects(
            source().open(path, 0, 1),
            'invalid_argument',
            path === '\ud800' ? '' : path,
            '/m/',
          );
          assert.equal(server.requests.length, before);
        });
      }
      test('a scheme in a path is a file name', async () => {
        server.files['/m/http:/x'] = FILE;
        assert.equal(source().describe('http:/x'), `${server.origin}/m/http%3A/x`);
      });
      test("a file's own URL keeps its query; the folder's query goes to the others; neither is told", async () => {
        const signed = file(undefined);
        const plain = file(undefined);
        const { folderUrl, path } = splitFileUrl(
          `${server.origin}${encodeURI(signed.at)}?token=x%20y&b#frag`,
        );
        assert.equal(path, signed.path);
        assert.equal(folderUrl.href, `${server.origin}/m/`);
        const from = source(
          { fileUrls: { [path]: `${server.origin}${encodeURI(signed.at)}?token=x%20y&b` } },
          `${folderUrl.href}?sas=1`,
        );
        await readAll(await from.open(path, 0, 10));
        await readAll(await from.open(plain.path, 0, 10));
        assert.ok(signed.requests()[0]?.url.endsWith('?token=x%20y&b'));
        assert.ok(plain.requests()[0]?.url.endsWith('?sas=1'));
        assert.ok(!from.describe(path).includes('token'));
        server.addFault({ path: signed.at, status: 404 });
        assert.ok(!(await rejects(from.open(path, 0, 10), 'not_found')).message.includes('token'));
      });
      test("a file's URL at another origin gets no headers", async () => {
        const target = file(undefined, FILE, other);
        const from = source({
          headers: { Authorization: 'b' },
          fileUrls: { 'w.bin': other.origin + encodeURI(target.at) },
        });
        sameBytes(await readAll(await from.open('w.bin', 3, 10)), bytes(3, 10));
        assert.equal(target.requests()[0]?.headers.authorization, undefined);
      });
      test('folders without a slash, and URLs that cannot be', () => {
        assert.equal(source({}, 'http://h/m').describe('a'), 'http://h/m/a');
        for (const url of ['ftp://h/m', 'nothing', 'http://user:pass@h/m/', 'file:///etc/']) {
          assert.throws(() => source({}, url), { name: 'SluiceError', code: 'invalid_argument' });
        }
        assert.throws(() => source({ headers: { Range: 'bytes=0-1' } }), {
          code: 'invalid_argument',
        });
        assert.throws(() => source({ stallTimeoutMs: 0 }), { code: 'invalid_argument' });
      });
    });
  });
}

describe('HttpSource over a fetch of the page', () => {
  /** A response as CORS leaves it: only what is named here can be seen. */
  function corsResponse(
    status: number,
    headers: Record<string, string>,
    body: Uint8Array,
  ): Response {
    const response = new Response(Buffer.from(body), { status, headers });
    Object.defineProperty(response, 'type', { value: 'cors' });
    return response;
  }
  const over = (
    answer: (init: RequestInit) => Response | Promise<Response>,
    options: HttpSourceOptions = {},
  ) =>
    new HttpSource('https://cdn.example/m/', {
      fetch: (_url, init) => Promise.resolve(answer(init ?? {})),
      ...options,
    });

  test('a hidden Content-Range is believed, and the body cut at what was asked', async () => {
    const stream = await over(() => corsResponse(206, {}, bytes(10, 40))).open('a', 10, 30);
    assert.equal(stream.begin, 10);
    assert.equal(stream.fileBytes, undefined);
    sameBytes(await readAll(stream), bytes(10, 30));
  });
  test('a Content-Range that is exposed is checked', async () => {
    const source = over(() =>
      corsResponse(206, { 'Content-Range': 'bytes 0-19/40' }, bytes(0, 20)),
    );
    await rejects(source.open('a', 10, 30), 'http_status', 'bytes 10-29', 'bytes 0-19/40');
  });
  test('with a hidden Content-Range more bytes than asked are another range', async () => {
    const source = over(() => corsResponse(206, { 'Content-Length': '40' }, bytes(0, 40)));
    await rejects(source.open('a', 10, 30), 'http_status', 'bytes 10-29', '40 bytes, 20 more');
  });
  test('Content-Length says nothing where Content-Encoding may be hidden', async () => {
    const stream = await over(() =>
      corsResponse(200, { 'Content-Length': '12' }, bytes(0, 40)),
    ).open('a', 0, undefined);
    assert.equal(stream.fileBytes, undefined);
    sameBytes(await readAll(stream), bytes(0, 40));
  });
  test('the ETag of a whole response, perhaps compressed, is not held against that of a range', async () => {
    const source = over((init) =>
      new Headers(init.headers).has('range')
        ? corsResponse(206, { ETag: '"a"' }, bytes(10, 20))
        : corsResponse(200, { ETag: '"a-gzip"' }, bytes(0, 40)),
    );
    await readAll(await source.open('a', 0, undefined));
    await readAll(await source.open('a', 10, 20));
  });
  test('requests bypass the HTTP cache and carry credentials as told', async () => {
    const seen: RequestInit[] = [];
    const source = over(
      (init) => {
        seen.push(init);
        return new Response('x');
      },
      { credentials: 'include', headers: { Authorization: 'b' } },
    );
    await readAll(await source.open('a', 0, undefined));
    assert.equal(seen[0]?.cache, 'no-store');
    assert.equal(seen[0].credentials, 'include');
    assert.equal(seen[0].redirect, 'follow');
    assert.equal(new Headers(seen[0].headers).get('authorization'), 'b');
  });
  test('with other headers a redirect whose target is hidden is refused', async () => {
    const source = over(
      (init) => {
        assert.equal(init.redirect, 'manual');
        const response = new Response(null, { status: 200 });
        Object.defineProperty(response, 'type', { value: 'opaqueredirect' });
        return response;
      },
      { headers: { 'X-Secret': 'a' } },
    );
    const error = await rejects(
      source.open('a', 0, 1),
      'http_status',
      'redirects',
      'https://cdn.example/m/a',
    );
    assert.ok(error.hint?.includes('Authorization'));
  });
  test('a fetch that does not heed its signal cannot hang anything', async (context) => {
    let late: Response | undefined;
    // The stall timer alone does not keep the process alive.
    const alive = setInterval(() => undefined, 1000);
    context.after(() => clearInterval(alive));
    const never = over(() => new Promise<Response>(() => undefined), { stallTimeoutMs: 40 });
    await rejects(never.open('a', 0, 1), 'network', '0.04 s');

    const silent = over(() => new Response(new ReadableStream()), { stallTimeoutMs: 40 });
    await rejects(silent.open('a', 0, undefined).then(readAll), 'network', '0.04 s');

    let cancelled = false;
    const tardy = over(
      async () => {
        await new Promise((next) => setTimeout(next, 80));
        return (late = new Response(new ReadableStream({ cancel: () => void (cancelled = true) })));
      },
      { stallTimeoutMs: 20 },
    );
    await rejects(tardy.open('a', 0, undefined), 'network', '0.02 s');
    await until(() => late !== undefined && cancelled, 'the late response is cancelled');
  });
  test('a refused answer of a fetch that does not heed its signal is cancelled', async () => {
    for (const [status, headers, code] of [
      [403, {}, 'http_status'],
      [404, {}, 'not_found'],
      [503, {}, 'http_status'],
      [206, { 'Content-Encoding': 'gzip' }, 'http_status'],
    ] as const) {
      let cancelled = false;
      const body = new ReadableStream({ cancel: () => void (cancelled = true) });
      await rejects(over(() => new Response(body, { status, headers })).open('a', 0, 1), code);
      await until(() => cancelled, `the body of the answer with status ${status} is cancelled`);
    }
  });
  test('a TypeError names the URL and the cause, and hints at CORS in a page of another origin', async () => {
    const failing = () => over(() => Promise.reject(new TypeError('Failed to fetch')));
    const plain = await rejects(
      failing().open('a', 0, 1),
      'network',
      'https://cdn.example/m/a',
      'Failed to fetch',
    );
    assert.equal(plain.retryable, true);
    assert.ok(!plain.hint?.includes('CORS'));
    Object.defineProperty(globalThis, 'location', {
      value: new URL('https://page.example/'),
      configurable: true,
    });
    try {
      assert.ok((await rejects(failing().open('a', 0, 1), 'network')).hint?.includes('CORS'));
      assert.equal(new HttpSource('models/').describe('a'), 'https://page.example/models/a');
    } finally {
      Reflect.deleteProperty(globalThis, 'location');
    }
  });
  test('whatever it throws comes out as a SluiceError', async () => {
    const source = over(() => {
      // eslint-disable-next-line @typescript-eslint/only-throw-error -- a page's function may do so
      throw 'a string';
    });
    await assert.rejects(source.open('a', 0, 1), SluiceError);
  });
});
