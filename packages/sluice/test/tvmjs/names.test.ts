// Every name of tvmjs is here, and takes as many arguments.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { test } from 'node:test';
import type * as Theirs from '@mlc-ai/web-runtime';
import * as ours from 'sluice/tvmjs';
// Types alone leave no trace at run time: this fails to compile where one is missing
import type {
  ArtifactCacheTemplate,
  ArtifactCacheType,
  Disposable,
  FetchTensorCacheOptions,
  GPUDeviceDetectOutput,
  InitProgressCallback,
  InitProgressReport,
  LibraryProvider,
  OPFSAccessMode,
  PackedFunc,
  RNGState,
  TensorCacheAccessOptions,
} from 'sluice/tvmjs';
import { newInstance } from './support.js';

const theirs = createRequire(import.meta.url)('@mlc-ai/web-runtime') as Record<string, unknown>;
type Class = new (...args: never[]) => object;
const isClass = (value: unknown): value is Class =>
  typeof value === 'function' && /^class\b/.test(String(value));

test('what the module exports', () => {
  assert.deepEqual(
    Object.keys(theirs).filter((name) => !(name in ours)),
    [],
  );
});

/** Methods of theirs that begin with one of these are private. */
const PRIVATE: Record<string, RegExp> = {
  // Of the argument stack, which neither module exports
  Instance:
    /^(setPackedArguments|getGlobalFuncInternal|toPackedFuncInternal|loadTensorCacheRecordData|getPackedBF16Bytes|fetchTensorCacheInternal|register(ObjectFactory|EnvGlobalPacked)Funcs|createPackedFuncFromSafeCallType|wrapJSFuncAsSafeCallType|makePackedFunc|retValueToJS)/,
  Tensor: /^(numStorageBytes|getDLTensorFromArrayHandle)/,
  LinearCongruentialGenerator: /^checkRandState/,
  ArtifactIndexedDBCache: /^(initDB|isUrlInDB)/,
  ArtifactOPFSCache: /^(readFromCache|responseToStoreType)/,
  ArtifactCrossOriginStorageCache: /^responseToStoreType/,
  RPCServer: /./,
};

test('what its classes can do', () => {
  for (const [name, value] of Object.entries(theirs)) {
    if (!isClass(value)) continue;
    const own = ours[name as keyof typeof ours] as unknown as Class;
    const inherited = name === 'Instance' ? (Object.getPrototypeOf(own) as Class) : own;
    const methods = Object.getOwnPropertyNames(value.prototype).filter(
      (method) => method !== 'constructor' && !PRIVATE[name]?.test(method),
    );
    assert.deepEqual(
      methods.filter((method) => !(method in inherited.prototype)),
      [],
      name,
    );
    const statics = Object.getOwnPropertyNames(value).filter(
      (method) => !['length', 'name', 'prototype'].includes(method),
    );
    assert.deepEqual(
      statics.filter((method) => !(method in own)),
      [],
      name,
    );
  }
});

test('types fit, as far as they can be written down', () => {
  const progress: Theirs.InitProgressReport = {
    progress: 0,
    timeElapsed: 0,
    text: '',
  } satisfies InitProgressReport;
  const options: Theirs.FetchTensorCacheOptions = {
    cacheScope: 'a',
    cacheType: 'opfs' satisfies ArtifactCacheType,
    opfsAccessMode: 'auto' satisfies OPFSAccessMode,
    signal: new AbortController().signal,
  } satisfies FetchTensorCacheOptions;
  const report: InitProgressCallback = ({ text }) => text;
  const callback: Theirs.InitProgressCallback = report;
  const cache: Theirs.ArtifactCacheTemplate = ours.createArtifactCache('a');
  const back: ArtifactCacheTemplate = cache;
  const access: TensorCacheAccessOptions = options;
  const provider: Theirs.LibraryProvider = ours.createPolyfillWASI() satisfies LibraryProvider;
  const detect: () => Promise<Theirs.GPUDeviceDetectOutput | undefined> = ours.detectGPUDevice;
  const again: () => Promise<GPUDeviceDetectOutput | undefined> = detect;
  const state: RNGState = new ours.LinearCongruentialGenerator().getState();
  const instance: Pick<
    Theirs.Instance,
    | 'benchmark'
    | 'asyncifyEnabled'
    | 'dispose'
    | 'runtimeStatsText'
    | 'beginScope'
    | 'endScope'
    | 'withNewScope'
    | 'listGlobalFuncNames'
    | 'isPackedFunc'
    | 'registerInitProgressCallback'
    | 'tensorCacheClear'
    | 'setSeed'
    | 'getRNGState'
    | 'setRNGState'
    | 'bindCanvas'
    | 'clearCanvas'
    | 'typeKey2Index'
    | 'initWebGPU'
    | 'cacheMetadata'
  > = newInstance() as unknown as Omit<ours.Instance, 'benchmark'> &
    Pick<Theirs.Instance, 'benchmark'>;
  const func = (): PackedFunc => newInstance().getGlobalFunc('testing.echo');
  const disposable: Disposable = instance;
  const given = [progress, callback, back, access, provider, again, state, func, disposable];
  assert.ok(given.every((each) => each));
});
