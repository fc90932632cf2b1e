// The GPU that the browser has, in words.

/** Adapters that run shaders on the CPU, by the names that they have. */
const SOFTWARE = /swiftshader|llvmpipe|lavapipe|basic render/i;

export interface FoundAdapter {
  adapter: GPUAdapter;
  name: string;
  /** It runs on the CPU. */
  software: boolean;
}

/** The browser's fastest adapter; undefined where it has none. */
export async function findAdapter(): Promise<FoundAdapter | undefined> {
  const gpu = (navigator as Partial<Navigator>).gpu;
  const adapter = await gpu
    ?.requestAdapter({ powerPreference: 'high-performance' })
    .catch(() => null);
  if (!adapter) return undefined;
  const { vendor, architecture, device, description, isFallbackAdapter } = adapter.info;
  return {
    adapter,
    name: description || `${vendor} ${architecture}`.trim() || 'available',
    software:
      isFallbackAdapter || SOFTWARE.test([vendor, architecture, device, description].join()),
  };
}

/** Why there is none, without a full stop. */
export function whyNoAdapter(): string {
  if (!isSecureContext) return 'WebGPU needs a secure page (https or localhost)';
  return (navigator as Partial<Navigator>).gpu
    ? 'The browser has WebGPU but found no GPU for it; updating the GPU’s driver may help'
    : 'This browser has no WebGPU; current Chrome, Edge, Safari and Firefox do';
}
