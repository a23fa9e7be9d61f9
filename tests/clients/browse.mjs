// Operates the demo page: node browse.mjs WEB_FOLDER CHROMIUM URL AUDIO_FILE SCREENSHOT
// Prints the results of both engines as JSON. Errors of the page end it with status 1.

import {readFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {basename} from 'node:path';

const [web, executablePath, url, audioFile, screenshot] = process.argv.slice(2);
const {chromium} = createRequire(`${web}/package.json`)('playwright-core');

const browser = await chromium.launch({
  executablePath,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync',
    '--disable-background-networking', '--disable-component-update'],
});
const page = await browser.newPage({viewport: {width: 900, height: 700}});
const errors = [];
page.on('pageerror', (error) => errors.push(String(error)));
await page.goto(url);
await page.waitForFunction(() => globalThis.ready, null, {timeout: 60000});

const bytes = readFileSync(audioFile).toString('base64');
const answers = {};
for (const engine of ['litert', 'mediapipe']) {
  await page.selectOption('#engine', engine);
  // A file is dropped on the page, as a person would do it.
  const transfer = await page.evaluateHandle(([data, name]) => {
    const file = new File([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], name);
    const made = new DataTransfer();
    made.items.add(file);
    return made;
  }, [bytes, basename(audioFile)]);
  await page.dispatchEvent('#drop', 'drop', {dataTransfer: transfer});
  answers[engine] = await page.evaluate(() => globalThis.answer);
}
answers.status = await page.textContent('#status');
answers.labels = await page.$$eval('#labels li', (items) =>
    items.map((item) => item.firstChild.textContent));
await page.screenshot({path: screenshot});
answers.refused = await page.evaluate(() => {
  const made = new DataTransfer();
  made.items.add(new File(['not audio'], 'note.wav'));
  document.getElementById('drop').dispatchEvent(new DragEvent('drop', {dataTransfer: made}));
  return globalThis.answer.catch(() => document.getElementById('status').textContent);
});
await browser.close();
if (errors.length) {
  console.error(errors.join('\n'));
  process.exit(1);
}
console.log(JSON.stringify(answers));
