// `make demo`: serves the pages until it is interrupted.
import { parseArgs } from 'node:util';

import { readChatModel, startDemo } from './server.js';

const DEFAULT_PORT = '8080';

const { values } = parseArgs({
  options: {
    port: { type: 'string', default: DEFAULT_PORT },
    help: { type: 'boolean', default: false },
  },
});
const port = Number(values.port);
if (values.help || !Number.isInteger(port) || port < 0 || port > 65535) {
  console.log(
    'usage: make demo [DEMO="--port NUMBER"]\n' +
      `Serves the demo pages on 127.0.0.1, port ${DEFAULT_PORT} unless given; 0 takes any free one.`,
  );
  process.exit(values.help ? 0 : 2);
}
try {
  const { origin } = await startDemo({ port });
  const { name, command, builds } = await readChatModel();
  console.log(`The demo is at ${origin}/ (Ctrl+C ends it), its chat page at ${origin}/chat.html`);
  if (builds.length === 0) {
    console.log(
      `${name}, with which it chats, is not built: \`${command}\` does that in some minutes, once. The page finds it then.`,
    );
  }
} catch (error) {
  if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error;
  console.error(`make demo: port ${port} is taken; try make demo DEMO="--port 0"`);
  process.exit(1);
}
