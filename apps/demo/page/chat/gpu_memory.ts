/** Counts what a device's buffers take. Made before anything else uses the device. */
export class GpuMemory {
  /** Bytes of the buffers that there are. */
  bytes = 0;

  constructor(device: GPUDevice) {
    const createBuffer = device.createBuffer.bind(device);
    device.createBuffer = (descriptor) => {
      const buffer = createBuffer(descriptor);
      const destroy = buffer.destroy.bind(buffer);
      let held = buffer.size;
      this.bytes += held;
      buffer.destroy = () => {
        this.bytes -= held;
        held = 0;
        return destroy();
      };
      return buffer;
    };
  }
}
