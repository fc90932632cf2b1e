// What the page is held to by eye elsewhere, as code: most are functions that run in the page, each sent there
// as text.
import assert from 'node:assert/strict';
import type { ChromiumPage } from '../../../../packages/sluice/test/support/chromium.js';

/** What is wrong with the page's structure, a line each. */
export function structureFaults(): string[] {
  const faults: string[] = [];
  const describe = (element: Element): string =>
    `<${element.tagName.toLowerCase()} id="${element.id}" class="${element.getAttribute('class') ?? ''}">`;
  const seen = (element: Element): boolean => element.checkVisibility({ visibilityProperty: true });

  const ids = [...document.querySelectorAll('[id]')].map(({ id }) => id);
  for (const id of new Set(ids.filter((id, i) => ids.indexOf(id) !== i))) {
    faults.push(`the id ${id} is there more than once`);
  }
  for (const name of ['aria-labelledby', 'aria-describedby', 'for']) {
    for (const element of document.querySelectorAll(`[${name}]`)) {
      for (const id of element.getAttribute(name)?.split(/\s+/) ?? []) {
        if (!document.getElementById(id)) faults.push(`${describe(element)}: no ${id} (${name})`);
      }
    }
  }
  for (const input of document.querySelectorAll<HTMLInputElement>('input, select, textarea')) {
    const labelled = (input.labels?.length ?? 0) > 0 || input.hasAttribute('aria-label');
    if (!labelled) faults.push(`${describe(input)} has no label`);
  }
  for (const button of document.querySelectorAll('button, a, summary')) {
    if (button.textContent.trim() === '') faults.push(`${describe(button)} has no name`);
    if (button.querySelector('button, a, input'))
      faults.push(`${describe(button)} holds a control`);
  }
  for (const image of document.querySelectorAll('svg, canvas')) {
    const hidden = image.getAttribute('aria-hidden') === 'true';
    const named = image.getAttribute('role') === 'img' && image.hasAttribute('aria-label');
    if (seen(image) && !hidden && !named) faults.push(`${describe(image)} has no description`);
  }
  const headings = [...document.querySelectorAll('h1, h2, h3, h4')].filter(seen);
  let level = 0;
  for (const heading of headings) {
    const next = Number(heading.tagName.charAt(1));
    if (next > level + 1) faults.push(`${describe(heading)} follows a heading of level ${level}`);
    if (heading.textContent.trim() === '') faults.push(`${describe(heading)} is empty`);
    level = next;
  }
  for (const landmark of ['main', 'header', 'h1']) {
    const count = document.querySelectorAll(landmark).length;
    if (count !== 1) faults.push(`${count} elements are <${landmark}>`);
  }
  if (document.documentElement.lang === '') faults.push('the page has no language');
  return faults;
}

/** Texts whose contrast with their ground is below 4.5 (WCAG 2.2, 1.4.3), a line each. */
function contrastFaults(): string[] {
  const context = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  if (!context) throw new Error('no canvas');
  /** Any CSS colour over an opaque one, as [red, green, blue]. */
  const over = (colour: string, ground: number[]): number[] => {
    context.fillStyle = `rgb(${ground.join(' ')})`;
    context.fillRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (colour: number[]): number => {
    const [red = 0, green = 0, blue = 0] = colour.map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const groundOf = (element: Element): number[] => {
    const parent = element.parentElement;
    const below = parent ? groundOf(parent) : [255, 255, 255];
    return over(getComputedStyle(element).backgroundColor, below);
  };
  const faults: string[] = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent?.trim();
    const element = walker.currentNode.parentElement;
    if (!text || !element?.checkVisibility({ visibilityProperty: true })) continue;
    if (element.closest(':disabled, [aria-hidden=true]')) continue;
    const style = getComputedStyle(element);
    const ground = groundOf(element);
    const ink = over(element instanceof SVGElement ? style.fill : style.color, ground);
    const [light = 0, dark = 0] = [luminance(ink), luminance(ground)].sort((a, b) => b - a);
    const contrast = (light + 0.05) / (dark + 0.05);
    if (contrast < 4.5) faults.push(`"${text}": ${contrast.toFixed(2)}`);
  }
  return faults;
}

/** Controls that are smaller than a finger, and whatever makes the page wider than its window. */
function phoneFaults(): string[] {
  const faults: string[] = [];
  const { scrollWidth, clientWidth } = document.documentElement;
  if (scrollWidth > clientWidth) faults.push(`the page is ${scrollWidth} of ${clientWidth} wide`);
  for (const control of document.querySelectorAll('button, input, select, summary')) {
    if (!control.checkVisibility({ visibilityProperty: true })) continue;
    if (control.matches('.skip, :disabled, [type=checkbox]')) continue;
    // A row of the table is a target as a whole
    const target = control.closest('tbody tr') ?? control;
    const { width, height } = target.getBoundingClientRect();
    if (width < 44 || height < 44) {
      faults.push(`"${control.textContent || control.id}" is ${width} by ${height}`);
    }
  }
  return faults;
}

/** What is wrong with how a page looks and is built, in this state of it: as it is, and on a phone. */
export async function checkAppearance(opened: ChromiumPage, state: string): Promise<void> {
  assert.deepEqual(await opened.evaluate(structureFaults, undefined), [], state);
  assert.deepEqual(await opened.evaluate(contrastFaults, undefined), [], state);
  await opened.page.setViewportSize({ width: 360, height: 740 });
  assert.deepEqual(await opened.evaluate(phoneFaults, undefined), [], state);
  await opened.page.setViewportSize({ width: 1440, height: 900 });
}
