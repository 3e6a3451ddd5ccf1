// Runs one operation of the JavaScript SDK and prints what it gave as the last line of standard
// output: {"value": ...} or {"error": {"message": ..., "status": ...}}. (The SDK prints as well.)
//
//   node client.mjs OPERATION BASE_URL KEY ENDPOINT [ARGUMENTS AS JSON]
import runpodSdk from "runpod-sdk";

const [operation, baseUrl, key, endpointId, json] = process.argv.slice(2);
const given = JSON.parse(json ?? "{}");
const runpod = runpodSdk(key, { baseUrl });
const endpoint = runpod.endpoint(endpointId);

const collect = async (stream) => {
  const elements = [];
  for await (const element of stream) {
    elements.push(element);
  }
  return elements;
};

const operations = {
  // The calls of the upstream's reference, argument for argument.
  runSync: () => endpoint.runSync({ input: given.input, timeout: 60000 }),
  run: () => endpoint.run({ input: given.input }),
  status: () => endpoint.status(given.id),
  cancel: () => endpoint.cancel(given.id),
  health: () => endpoint.health(),
  purgeQueue: () => endpoint.purgeQueue(),
  stream: () => collect(endpoint.stream(given.id)),
  runThenStatus: async () => {
    const { id } = await endpoint.run({ input: given.input });
    return endpoint.status(id);
  },
  runThenStream: async () => {
    const { id } = await endpoint.run({ input: given.input });
    return { id, elements: await collect(endpoint.stream(id)) };
  },
  runThenCancel: async () => {
    const { id } = await endpoint.run({ input: given.input });
    return endpoint.cancel(id);
  },
  // Further calls that the SDK has.
  runSyncTimeout: () => endpoint.runSync({ input: given.input }, given.timeout),
  statusSync: () => endpoint.statusSync(given.id, given.timeout ?? 90000),
  // The stream to its end: after a connection that broke it goes on, as a program would.
  streamOn: async () => {
    const elements = [];
    for (let broken = 0; ; broken++) {
      try {
        for await (const element of endpoint.stream(given.id)) {
          elements.push(element);
        }
        return { elements, broken };
      } catch (error) {
        if (error.response || broken > 1000) {
          throw error;
        }
      }
    }
  },
};

let outcome;
try {
  outcome = { value: await operations[operation]() };
} catch (error) {
  outcome = {
    error: {
      name: error.name,
      message: error.message,
      status: error.response?.status ?? null,
      data: error.response?.data ?? null,
    },
  };
}
process.stdout.write("\n" + JSON.stringify(outcome) + "\n");
// Idle keep-alive connections would hold the process for seconds.
process.exit(0);
