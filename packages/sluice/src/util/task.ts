/** Resolves when whatever waits in this thread's event loop, messages among it, has had its turn. */
export function nextTask(): Promise<void> {
  // A timer would wait up to 4 ms in browsers
  const { port1, port2 } = new MessageChannel();
  return new Promise((resolve) => {
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(undefined);
  });
}
