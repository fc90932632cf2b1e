import { SluiceError } from '../../errors.js';
import type { GpuErrors } from './gpu_errors.js';

const VISIBLE_TO_FRAGMENT = 0x2;
const UNIFORM_COPY_DST = 0x40 | 0x8;

// One triangle that covers the canvas; each pixel is taken from the four of the image around it.
const CODE = /* wgsl */ `
struct Sizes { image : vec2u, canvas : vec2f }
@group(0) @binding(0) var<storage, read> pixels : array<u32>;
@group(0) @binding(1) var<uniform> sizes : Sizes;

@vertex
fn cover(@builtin(vertex_index) i : u32) -> @builtin(position) vec4f {
  return vec4f(f32(i & 1) * 4 - 1, f32(i >> 1) * 4 - 1, 0, 1);
}

fn pixel(at : vec2i) -> vec4f {
  let inside = vec2u(clamp(at, vec2i(0), vec2i(sizes.image) - 1));
  return unpack4x8unorm(pixels[inside.y * sizes.image.x + inside.x]);
}

@fragment
fn paint(@builtin(position) position : vec4f) -> @location(0) vec4f {
  let at = position.xy / sizes.canvas * vec2f(sizes.image) - 0.5;
  let corner = vec2i(floor(at));
  let part = fract(at);
  let above = mix(pixel(corner), pixel(corner + vec2i(1, 0)), part.x);
  let below = mix(pixel(corner + vec2i(0, 1)), pixel(corner + vec2i(1, 1)), part.x);
  return mix(above, below, part.y);
}`;

/** A canvas that shows images which lie in buffers. */
export class CanvasView {
  readonly #device: GPUDevice;
  readonly #errors: GpuErrors;
  readonly #canvas: HTMLCanvasElement | OffscreenCanvas;
  readonly #context: GPUCanvasContext;
  readonly #layout: GPUBindGroupLayout;
  readonly #pipeline: GPURenderPipeline;
  readonly #sizes: GPUBuffer;

  /** Throws `invalid_argument` where the canvas gives no WebGPU context. */
  constructor(device: GPUDevice, errors: GpuErrors, canvas: HTMLCanvasElement | OffscreenCanvas) {
    const context = canvas.getContext('webgpu');
    if (context === null) {
      throw new SluiceError('invalid_argument', 'the canvas gives no WebGPU context', {
        hint: 'a canvas that has another kind of context keeps it; make a new one',
      });
    }
    this.#device = device;
    this.#errors = errors;
    this.#canvas = canvas;
    this.#context = context;
    const format = preferredFormat();
    const made = errors.capture('binding a canvas', () => {
      context.configure({ device, format, alphaMode: 'opaque' });
      const layout = device.createBindGroupLayout({
        entries: (['read-only-storage', 'uniform'] as const).map((type, binding) => ({
          binding,
          visibility: VISIBLE_TO_FRAGMENT,
          buffer: { type },
        })),
      });
      const module = device.createShaderModule({ label: 'sluice canvas', code: CODE });
      const pipeline = device.createRenderPipeline({
        label: 'sluice canvas',
        layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
        vertex: { module, entryPoint: 'cover' },
        fragment: { module, entryPoint: 'paint', targets: [{ format }] },
      });
      const sizes = device.createBuffer({ size: 16, usage: UNIFORM_COPY_DST });
      return { layout, pipeline, sizes };
    });
    this.#layout = made.layout;
    this.#pipeline = made.pipeline;
    this.#sizes = made.sizes;
  }

  /** Stretches the image over the canvas. The buffer has 4 * height * width bytes. */
  draw(buffer: GPUBuffer, height: number, width: number): void {
    const sizes = new Uint32Array([width, height, 0, 0]);
    new Float32Array(sizes.buffer, 8).set([this.#canvas.width, this.#canvas.height]);
    this.#errors.capture(`showing an image of ${height} x ${width}`, () => {
      const device = this.#device;
      const resources = [{ buffer, size: 4 * height * width }, { buffer: this.#sizes }];
      const entries = resources.map((resource, binding) => ({ binding, resource }));
      const group = device.createBindGroup({ layout: this.#layout, entries });
      device.queue.writeBuffer(this.#sizes, 0, sizes);
      this.#render((pass) => {
        pass.setPipeline(this.#pipeline);
        pass.setBindGroup(0, group);
        pass.draw(3);
      });
    });
  }

  clear(): void {
    this.#errors.capture('clearing the canvas', () => this.#render(() => undefined));
  }

  dispose(): void {
    this.#context.unconfigure();
    this.#sizes.destroy();
  }

  /** On white. */
  #render(draw: (pass: GPURenderPassEncoder) => void): void {
    const encoder = this.#device.createCommandEncoder();
    const pass = encoder.beginRenderPass({
      colorAttachments: [
        {
          view: this.#context.getCurrentTexture().createView(),
          clearValue: { r: 1, g: 1, b: 1, a: 1 },
          loadOp: 'clear',
          storeOp: 'store',
        },
      ],
    });
    draw(pass);
    pass.end();
    this.#device.queue.submit([encoder.finish()]);
  }
}

/** The format that the browser shows without a conversion; all of them show this one. */
function preferredFormat(): GPUTextureFormat {
  const gpu = typeof navigator === 'undefined' ? undefined : (navigator as Partial<Navigator>).gpu;
  return gpu?.getPreferredCanvasFormat() ?? 'bgra8unorm';
}
