import type { LibraryProvider } from './types.js';

/** Of WASI preview 1. */
const SUCCESS = 0;
const BAD_FILE = 8;
const NOT_SUPPORTED = 52;

/** The rest of preview 1, of which a runtime has no use. */
const UNSUPPORTED = [
  ...['fd_advise', 'fd_allocate', 'fd_datasync', 'fd_fdstat_set_flags', 'fd_fdstat_set_rights'],
  ...['fd_filestat_get', 'fd_filestat_set_size', 'fd_filestat_set_times', 'fd_pread', 'fd_pwrite'],
  ...['fd_read', 'fd_readdir', 'fd_renumber', 'fd_seek', 'fd_sync', 'fd_tell'],
  ...['path_create_directory', 'path_filestat_get', 'path_filestat_set_times', 'path_link'],
  ...['path_open', 'path_readlink', 'path_remove_directory', 'path_rename', 'path_symlink'],
  ...['path_unlink_file', 'poll_oneoff', 'proc_raise', 'sock_accept', 'sock_recv', 'sock_send'],
  ...['sock_shutdown'],
];

/**
 * What a module that was built for WASI needs to start: clocks, random numbers, and its output on the console. There are
 * no files, arguments or environment.
 */
export function createPolyfillWASI(): LibraryProvider {
  let memory: WebAssembly.Memory | undefined;
  const view = (): DataView => {
    if (!memory) throw new Error('the module called WASI before it was started');
    return new DataView(memory.buffer);
  };
  const lines = new Map<number, string>();
  const setU32 = (at: number, value: number): void => {
    view().setUint32(at >>> 0, value, true);
  };
  const none = (count: number, nbytes: number): number => {
    setU32(count, 0);
    setU32(nbytes, 0);
    return SUCCESS;
  };
  const wasi: Record<string, (...args: never[]) => unknown> = {
    args_get: () => SUCCESS,
    args_sizes_get: none,
    environ_get: () => SUCCESS,
    environ_sizes_get: none,
    clock_res_get: (_clock: number, at: number) => {
      view().setBigUint64(at >>> 0, 1_000n, true);
      return SUCCESS;
    },
    clock_time_get: (clock: number, _precision: bigint, at: number) => {
      const ms = clock === 0 ? Date.now() : performance.now();
      view().setBigUint64(at >>> 0, BigInt(Math.round(ms * 1e6)), true);
      return SUCCESS;
    },
    random_get: (at: number, nbytes: number) => {
      const random = new Uint8Array(nbytes);
      for (let i = 0; i < nbytes; i += 65536) {
        crypto.getRandomValues(random.subarray(i, i + 65536));
      }
      new Uint8Array(view().buffer).set(random, at >>> 0);
      return SUCCESS;
    },
    fd_write: (file: number, spans: number, count: number, written: number) => {
      if (file !== 1 && file !== 2) return BAD_FILE;
      const data = view();
      let nbytes = 0;
      let text = lines.get(file) ?? '';
      for (let i = 0; i < count; i++) {
        const at = (spans >>> 0) + 8 * i;
        const begin = data.getUint32(at, true);
        const length = data.getUint32(at + 4, true);
        text += decoder.decode(new Uint8Array(data.buffer, begin, length).slice());
        nbytes += length;
      }
      const parts = text.split('\n');
      lines.set(file, parts.pop() ?? '');
      // eslint-disable-next-line no-console -- it is the module's output
      for (const line of parts) (file === 1 ? console.log : console.error)(line);
      setU32(written, nbytes);
      return SUCCESS;
    },
    fd_close: () => SUCCESS,
    fd_fdstat_get: (file: number, at: number) => {
      if (file > 2) return BAD_FILE;
      // A character device
      new Uint8Array(view().buffer).fill(0, at >>> 0, (at >>> 0) + 24);
      view().setUint8(at >>> 0, 2);
      return SUCCESS;
    },
    fd_prestat_get: () => BAD_FILE,
    fd_prestat_dir_name: () => BAD_FILE,
    sched_yield: () => SUCCESS,
    proc_exit: (status: number) => {
      throw new Error(`the module ended with status ${status}`);
    },
  };
  for (const name of UNSUPPORTED) wasi[name] = () => NOT_SUPPORTED;
  return {
    imports: { wasi_snapshot_preview1: wasi },
    start(instance) {
      const { exports } = instance;
      if (exports['memory'] instanceof WebAssembly.Memory) memory = exports['memory'];
      const initialize = exports['_initialize'];
      if (typeof initialize === 'function') (initialize as () => void)();
    },
  };
}

const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
