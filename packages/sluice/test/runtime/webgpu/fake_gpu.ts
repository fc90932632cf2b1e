// A GPUDevice that does nothing and records what it is told, in order. Reads and errors come when the test says so.
export interface FakeGpu {
  device: GPUDevice;
  /** `writeBuffer 3 +0 16`, `pass`, `dispatch k 1,1,1`, `copy 1 2 16`, `submit`, `map 5`, `destroy 3`, … buffers by number. */
  events: string[];
  /** Ends all reads that wait. */
  map: () => void;
  /** The outcome of the next scope with this filter that is popped. */
  failNext: (filter: GPUErrorFilter, message: string) => void;
  lose: (message: string) => void;
  /** Scopes that were pushed and not popped. */
  scopes: GPUErrorFilter[];
}

const limits = {
  maxBufferSize: 2 ** 30,
  maxStorageBufferBindingSize: 2 ** 28,
  maxStorageBuffersPerShaderStage: 8,
  minUniformBufferOffsetAlignment: 256,
  minStorageBufferOffsetAlignment: 256,
  maxComputeWorkgroupsPerDimension: 65_535,
};

export function fakeGpu(): FakeGpu {
  const events: string[] = [];
  const scopes: GPUErrorFilter[] = [];
  const failures: { filter: GPUErrorFilter; message: string }[] = [];
  let maps: (() => void)[] = [];
  let buffers = 0;
  let lose: (info: GPUDeviceLostInfo) => void = () => undefined;
  const numbers = new WeakMap<object, number>();
  const number = (buffer: object): number => numbers.get(buffer) ?? 0;

  const createBuffer = ({ size, usage }: GPUBufferDescriptor): GPUBuffer => {
    const contents = new ArrayBuffer(size);
    const id = ++buffers;
    const buffer = {
      size,
      usage,
      mapState: 'unmapped',
      destroy: () => void events.push(`destroy ${id}`),
      mapAsync: () => {
        events.push(`map ${id}`);
        return new Promise<void>((resolve) => maps.push(resolve));
      },
      getMappedRange: (offset: number, n: number) => contents.slice(offset, offset + n),
      unmap: () => void events.push(`unmap ${id}`),
    };
    numbers.set(buffer, id);
    return buffer as unknown as GPUBuffer;
  };

  const beginComputePass = (): unknown => {
    events.push('pass');
    return {
      setPipeline: ({ label }: { label: string }) => void events.push(`pipeline ${label}`),
      setBindGroup: (_: number, __: unknown, [offset]: number[]) =>
        void events.push(`uniform ${offset ?? ''}`),
      dispatchWorkgroups: (...counts: number[]) => void events.push(`dispatch ${counts.join()}`),
      end: () => void events.push('end'),
    };
  };

  const device = {
    limits,
    features: new Set<string>(),
    lost: new Promise<GPUDeviceLostInfo>((resolve) => (lose = resolve)),
    queue: {
      submit: () => void events.push('submit'),
      writeBuffer: (buffer: GPUBuffer, offset: number, data: Uint8Array, _ = 0, n = data.length) =>
        void events.push(`writeBuffer ${number(buffer)} +${offset} ${n}`),
      onSubmittedWorkDone: () => {
        events.push('wait');
        return Promise.resolve();
      },
    },
    createBuffer,
    createCommandEncoder: () => ({
      beginComputePass,
      copyBufferToBuffer: (from: GPUBuffer, _: number, to: GPUBuffer, __: number, n: number) =>
        void events.push(`copy ${number(from)} ${number(to)} ${n}`),
      finish: () => ({}),
    }),
    createBindGroupLayout: () => ({}),
    createPipelineLayout: () => ({}),
    createShaderModule: () => ({ getCompilationInfo: async () => ({ messages: [] }) }),
    createComputePipeline: ({ label }: GPUComputePipelineDescriptor) => ({ label }),
    createComputePipelineAsync: async ({ label }: GPUComputePipelineDescriptor) => ({ label }),
    createBindGroup: () => ({}),
    pushErrorScope: (filter: GPUErrorFilter) => void scopes.push(filter),
    popErrorScope: async () => {
      const filter = scopes.pop();
      const at = failures.findIndex((each) => each.filter === filter);
      return at < 0 ? null : { message: failures.splice(at, 1)[0]?.message };
    },
  };
  return {
    device: device as unknown as GPUDevice,
    events,
    scopes,
    map: () => {
      const waiting = maps;
      maps = [];
      for (const resolve of waiting) resolve();
    },
    failNext: (filter, message) => void failures.push({ filter, message }),
    lose: (message) => lose({ reason: 'unknown', message } as GPUDeviceLostInfo),
  };
}
