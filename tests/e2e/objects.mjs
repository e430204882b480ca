// objects.mjs MODULES FILE...: every object of these YAML files against the schema of its kind, unknown fields included; or
// objects.mjs MODULES --json FILE...: the objects as JSON, one a line.
//
// Values are held against the schemas of kubernetes-models, which let unknown fields pass; its types do not, so that the compiler
// of TypeScript is asked about the object as a literal of the type.
import { createRequire } from "node:module";
import { existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, ...rest] = process.argv.slice(2);
const installed = resolve(modules, "node_modules");
const require = createRequire(installed + "/");
const { parseAllDocuments } = require("yaml");
const json = rest[0] === "--json";
const checked = []; // {file, object, source}
let wrong = 0;

function complain(file, object, what) {
	console.error(`${file}: ${object?.kind} ${object?.metadata?.name}: ${what}`);
	wrong++;
}

async function check(file, object, work) {
	const { apiVersion, kind } = object;
	const owner = apiVersion.startsWith("monitoring.coreos.com/") ? "@kubernetes-models/prometheus-operator" : "kubernetes-models";
	const path = join(installed, owner, apiVersion, kind + ".js");
	if (!existsSync(path)) return complain(file, object, `no schema of ${apiVersion} ${kind}`);
	const model = (await import(pathToFileURL(path)))[kind];
	try {
		new model(object).validate();
	} catch (e) {
		complain(file, object, e.message);
	}
	const source = join(work, `object${checked.length}.ts`);
	writeFileSync(source, `import type { I${kind} } from "${owner}/${apiVersion}/${kind}";\nexport const o: I${kind} = ${JSON.stringify(object, null, 1)};\n`);
	checked.push({ file, object, source });
}

function compile() {
	const ts = require("typescript");
	const options = { noEmit: true, strict: true, skipLibCheck: true, types: [], module: ts.ModuleKind.ESNext,
		target: ts.ScriptTarget.ES2022, moduleResolution: ts.ModuleResolutionKind.Bundler };
	const program = ts.createProgram(checked.map((c) => c.source), options);
	for (const d of ts.getPreEmitDiagnostics(program)) {
		const c = checked.find((c) => c.source === d.file?.fileName);
		complain(c?.file ?? d.file?.fileName, c?.object, ts.flattenDiagnosticMessageText(d.messageText, " "));
	}
}

const work = mkdtempSync(join(tmpdir(), "objects-"));
symlinkSync(installed, join(work, "node_modules"));
try {
	for (const file of json ? rest.slice(1) : rest)
		for (const document of parseAllDocuments(readFileSync(file, "utf8"))) {
			if (document.errors.length) {
				console.error(`${file}: ${document.errors[0].message}`);
				wrong++;
				continue;
			}
			const object = document.toJS();
			if (object === null) continue;
			if (json) console.log(JSON.stringify(object));
			else await check(file, object, work);
		}
	if (!json) {
		compile();
		console.log(`${checked.length} objects`);
	}
} finally {
	rmSync(work, { recursive: true });
}
process.exitCode = wrong ? 1 : 0;
