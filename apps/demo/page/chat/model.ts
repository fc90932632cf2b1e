// The model that the page talks to: what there is of it, and which of its builds suits an adapter.
import type { ChatBuild, ChatModel } from '../../server.js';

/** What the server has; rejects where it says nothing. */
export async function fetchModel(): Promise<ChatModel> {
  const response = await fetch('chat-model.json', { cache: 'no-store' });
  if (!response.ok) throw new Error(`the server says ${response.status}`);
  return (await response.json()) as ChatModel;
}

/** The build for an adapter: the one for software where it is that, float16 where it can, else float32. */
export function chooseBuild(
  builds: readonly ChatBuild[],
  adapter: { software: boolean; float16: boolean },
): ChatBuild | undefined {
  const find = (dtype: ChatBuild['dtype'], software: boolean): ChatBuild | undefined =>
    builds.find((build) => build.dtype === dtype && build.software === software);
  const forSoftware = adapter.software ? find('float32', true) : undefined;
  const half = adapter.float16 ? find('float16', false) : undefined;
  return forSoftware ?? half ?? find('float32', false);
}

/** The sizes to choose from, the largest being all that the model knows. */
export function contextSizes(most: number): number[] {
  return [...[512, 1024, 2048, 4096, 8192, 16384].filter((size) => size < most), most];
}
