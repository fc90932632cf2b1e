// Where a model comes from: an address, or files of this device.
import { fromDataTransfer } from 'sluice';
import type { ModelFiles } from 'sluice';

import { byId, create } from './dom.js';
import { formatBytes } from './format.js';

/** What loadModel() takes, and a name for people. */
export interface ModelSource {
  name: string;
  location: string | ModelFiles;
}

/**
 * The model at what a person typed. A host without a scheme gets https; what begins with a path is relative
 * to the page. Undefined when it is no address.
 */
export function typedSource(typed: string): ModelSource | undefined {
  const text = typed.trim();
  if (text === '') return undefined;
  const host = /^(localhost|[\w-]+(\.[\w-]+)+)(:\d+)?\//.test(text) && !text.startsWith('.');
  const local = /^(localhost|127\.)/.test(text);
  const full = host ? `${local ? 'http' : 'https'}://${text}` : text;
  try {
    const url = new URL(full, location.href);
    if (!/^https?:$/.test(url.protocol)) return undefined;
    const segments = url.pathname.split('/').filter(Boolean);
    return { name: decodeURIComponent(segments.at(-1) ?? url.host), location: url.href };
  } catch {
    return undefined;
  }
}

/** What the server offers by /examples.json. */
interface Example {
  name: string;
  url: string;
  nbytes: number;
}

/** Fills the list with a button for each example; none where the server offers none. */
export async function listExamples(
  list: HTMLUListElement,
  choose: (url: string) => void,
): Promise<number> {
  const response = await fetch('examples.json').catch(() => undefined);
  if (!response?.ok) return 0;
  const examples = (await response.json()) as Example[];
  for (const { name, url, nbytes } of examples) {
    const button = create(
      'button',
      { type: 'button' },
      create('span', { class: 'example-name' }, name),
      ' ',
      create('span', { class: 'muted' }, formatBytes(nbytes)),
    );
    button.addEventListener('click', () => {
      choose(url);
    });
    list.append(create('li', {}, button));
  }
  return examples.length;
}

/** Of the File System Access API, where a browser has it: the picker of a folder that is only read. */
interface FolderPicker {
  showDirectoryPicker?: () => Promise<FileSystemDirectoryHandle>;
}

/** Buttons for a folder and for files. `choose` is told of what was picked. */
export function offerPickers(choose: (source: ModelSource) => void): void {
  const folderInput = byId('folder-input', HTMLInputElement);
  const filesInput = byId('files-input', HTMLInputElement);
  const picker = window as FolderPicker;
  byId('pick-folder', HTMLButtonElement).addEventListener('click', () => {
    if (!picker.showDirectoryPicker) return folderInput.click();
    picker.showDirectoryPicker().then(
      (folder) => choose({ name: folder.name, location: folder }),
      () => undefined, // nothing was picked
    );
  });
  byId('pick-files', HTMLButtonElement).addEventListener('click', () => filesInput.click());
  for (const input of [folderInput, filesInput]) {
    input.addEventListener('change', () => {
      const files = [...(input.files ?? [])];
      if (files.length > 0) choose({ name: nameOf(files), location: files });
      input.value = ''; // so that the same may be picked again
    });
  }
}

/** Takes files and folders that are dropped anywhere on the page, unless `busy`. */
export function acceptDrops(
  busy: () => boolean,
  choose: (source: Promise<ModelSource>) => void,
): void {
  const veil = byId('drop-veil', HTMLElement);
  // Each element entered is left, mostly after the next was entered
  let depth = 0;
  const withFiles = (event: DragEvent): boolean =>
    event.dataTransfer?.types.includes('Files') ?? false;
  window.addEventListener('dragenter', (event) => {
    if (!withFiles(event)) return;
    depth++;
    veil.hidden = busy();
  });
  window.addEventListener('dragleave', (event) => {
    if (withFiles(event) && --depth <= 0) veil.hidden = true;
  });
  window.addEventListener('dragover', (event) => {
    if (!withFiles(event) || !event.dataTransfer) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = busy() ? 'none' : 'copy';
  });
  window.addEventListener('drop', (event) => {
    depth = 0;
    veil.hidden = true;
    if (!withFiles(event) || !event.dataTransfer) return;
    event.preventDefault();
    if (busy()) return;
    const name = event.dataTransfer.items[0]?.getAsFile()?.name ?? 'dropped files';
    choose(fromDataTransfer(event.dataTransfer).then((location) => ({ name, location })));
  });
}

/** The folder that was picked, or the first file. */
function nameOf(files: readonly File[]): string {
  const [first] = files;
  const folder = first?.webkitRelativePath.split('/')[0];
  return folder || (first?.name ?? 'files');
}
