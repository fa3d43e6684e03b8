// A Node API over PostgreSQL, with a cache in Redis as every tutorial has it: get, or load and set. There is no line here that
// invalidates anything: "freshet watch" deletes the keys when their rows change, whoever changes them.
//
//   node app.mjs PORT       GET /users/ID, GET /teams/NAME, PUT /users/ID with {"name", "team"}
//
// DATABASE_URL and REDIS_URL say where the servers are; default postgres://localhost/postgres and redis://127.0.0.1:6379.
import { createServer } from 'node:http';
import pg from 'pg';
import { createClient } from 'redis';

const db = new pg.Pool({ connectionString: process.env.DATABASE_URL ?? 'postgres://localhost/postgres' });
const redis = createClient({ url: process.env.REDIS_URL ?? 'redis://127.0.0.1:6379' });
for (const server of [db, redis]) server.on('error', (err) => console.error(err.message));

// cached is get-or-set.
async function cached(key, load) {
  const hit = await redis.get(key);
  if (hit) return { value: JSON.parse(hit), cache: 'hit' };
  const value = await load();
  if (value) await redis.set(key, JSON.stringify(value), { expiration: { type: 'EX', value: 3600 } });
  return { value, cache: 'miss' };
}

const query = async (sql, ...args) => (await db.query(sql, args)).rows;
const user = (id) => cached(`user:${id}`, async () => (await query('SELECT id, name, team FROM users WHERE id = $1', id))[0]);
const team = (name) => cached(`team:${name}`, () => query('SELECT id, name FROM users WHERE team = $1 ORDER BY id', name));

async function body(req) {
  let text = '';
  for await (const chunk of req) text += chunk;
  return JSON.parse(text);
}

const server = createServer(async (req, res) => {
  const answer = (status, value, cache = 'none') => {
    res.writeHead(status, { 'content-type': 'application/json', 'x-cache': cache });
    res.end(JSON.stringify(value ?? null) + '\n');
  };
  try {
    const [, kind, id] = decodeURIComponent(new URL(req.url, 'http://localhost').pathname).split('/');
    if (req.method === 'PUT' && kind === 'users') {
      const { name, team } = await body(req);
      await query('UPDATE users SET name = $2, team = $3 WHERE id = $1', id, name, team);
      return answer(200, { id: Number(id), name, team }); // and that is all
    }
    if (req.method !== 'GET' || !['users', 'teams'].includes(kind)) return answer(404);
    const { value, cache } = await (kind === 'users' ? user(id) : team(id));
    return answer(value ? 200 : 404, value, cache);
  } catch (err) {
    return answer(500, { error: err.message });
  }
});

await redis.connect();
server.listen(Number(process.argv[2] ?? 3000), '127.0.0.1', () => console.log(`listening on http://127.0.0.1:${server.address().port}`));
const stop = () => {
  server.close(async () => {
    await db.end();
    redis.destroy();
  });
  server.closeAllConnections();
};
process.on('SIGINT', stop).on('SIGTERM', stop);
