// A Node service on the same keys as a Go service whose cache is Plain: bare JSON at
// plain keys, no package of ours. It does what the Redis tutorials do.
//
//   node app.mjs get KEY                prints the JSON, or (miss)
//   node app.mjs set KEY JSON SECONDS   writes it; the Go service sees it at once
//   node app.mjs del KEY                deletes it; a load in Go that began before can't undo that
//   node app.mjs serve PORT             GET, PUT (?ex=SECONDS) and DELETE on /KEY
//
// REDIS_URL says where Redis is; default redis://127.0.0.1:6379.
import { createServer } from 'node:http';
import { createClient } from 'redis';

async function get(redis, key) {
  const cached = await redis.get(key);
  // While a Go instance loads the key, it holds an empty string: a miss, too.
  return cached ? JSON.parse(cached) : undefined;
}

async function set(redis, key, value, seconds) {
  await redis.set(key, JSON.stringify(value), { expiration: { type: 'EX', value: seconds } });
}

async function del(redis, key) {
  return redis.del(key);
}

function serve(redis, port) {
  const server = createServer(async (req, res) => {
    const answer = (status, body) => {
      res.writeHead(status, { 'content-type': 'application/json', 'cache-control': 'no-store' });
      res.end(body === undefined ? '' : JSON.stringify(body) + '\n');
    };
    try {
      const url = new URL(req.url, 'http://localhost');
      const key = decodeURIComponent(url.pathname.slice(1));
      if (req.method === 'GET') {
        const value = await get(redis, key);
        return value === undefined ? answer(404) : answer(200, value);
      }
      if (req.method === 'PUT') {
        let body = '';
        for await (const chunk of req) body += chunk;
        await set(redis, key, JSON.parse(body), Number(url.searchParams.get('ex') ?? 3600));
        return answer(204);
      }
      if (req.method === 'DELETE') {
        await del(redis, key);
        return answer(204);
      }
      answer(405);
    } catch (err) {
      answer(err instanceof SyntaxError ? 400 : 500, { error: err.message });
    }
  });
  return new Promise((resolve, reject) => {
    server.on('error', reject);
    server.listen(port, '127.0.0.1', () => {
      console.log(`listening on http://127.0.0.1:${server.address().port}`);
    });
    const stop = () => {
      server.close(resolve);
      server.closeAllConnections();
    };
    process.on('SIGINT', stop).on('SIGTERM', stop);
  });
}

async function main([verb, ...args]) {
  const verbs = {
    get: async (redis, key) => {
      const value = await get(redis, key);
      console.log(value === undefined ? '(miss)' : JSON.stringify(value));
    },
    set: (redis, key, json, seconds) => set(redis, key, JSON.parse(json), Number(seconds)),
    del: async (redis, key) => console.log(await del(redis, key)),
    serve: (redis, port) => serve(redis, Number(port)),
  };
  const wants = { get: 1, set: 3, del: 1, serve: 1 };
  if (!Object.hasOwn(verbs, verb ?? '') || args.length !== wants[verb]) {
    console.error('usage: node app.mjs get KEY | set KEY JSON SECONDS | del KEY | serve PORT');
    process.exitCode = 2;
    return;
  }
  const redis = createClient({
    url: process.env.REDIS_URL ?? 'redis://127.0.0.1:6379',
    socket: { reconnectStrategy: verb === 'serve' ? (n) => Math.min(n * 50, 1000) : false },
  });
  redis.on('error', (err) => verb === 'serve' && console.error(`redis: ${err.message}`));
  await redis.connect();
  try {
    await verbs[verb](redis, ...args);
  } finally {
    redis.destroy();
  }
}

main(process.argv.slice(2)).catch((err) => {
  console.error(err.message || String(err));
  process.exitCode = 1;
});
